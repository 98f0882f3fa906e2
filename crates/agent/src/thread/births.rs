//! Merges at birth: jobs whose callers wait. The agent asks for them in chunks, and merges when the
//! hub answers.

use super::Agent;
use crate::{lock, Job};
use pagemerge_pages::wire::{self, bytes_of, kind};
use pagemerge_pages::Result;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The pages that one request to merge at birth asks for: this much is held twice for a moment.
pub const CHUNK: usize = 4096;

/// How long a waiting caller waits for a hub to appear.
const PATIENCE: Duration = Duration::from_secs(10);

/// The job that the agent works on.
pub struct Current {
    pub job: Arc<Job>,
    bits: Vec<u8>,
    done: usize,
    pub sequence: u64,
    deadline: Instant,
}

impl Agent<'_> {
    /// Take the next job, if the agent works on none.
    pub fn next_job(&mut self) {
        if self.current.as_ref().is_some_and(|current| current.job.is_cancelled()) {
            self.current = None;
        }
        while self.current.is_none() {
            let Some(job) = lock().jobs.pop_front() else { return };
            if job.is_cancelled() {
                continue;
            }
            let bits = vec![0; job.pages.div_ceil(8)];
            let deadline = Instant::now() + PATIENCE;
            self.current = Some(Current { job, bits, done: 0, sequence: 0, deadline });
            if self.connection.is_some() {
                if let Err(error) = self.resume_job() {
                    self.disconnect(&error);
                }
            }
        }
    }

    /// Ask for the next chunk of the current job, if there is one.
    pub fn resume_job(&mut self) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        // Odd numbers are ours, even ones the hub's.
        self.sequence += if self.sequence == 0 { 1 } else { 2 };
        current.sequence = self.sequence;
        let job = &current.job;
        let at = current.done * pagemerge_pages::PAGE;
        let target = job.target + at;
        let ask = wire::Intern {
            source: job.source.wrapping_add(at) as u64,
            target: target as u64,
            pages: (job.pages - current.done).min(CHUNK) as u64,
            region: lock().table.holding(target, target).map_or(0, |region| region.id),
        };
        let sequence = self.sequence;
        self.send(kind::INTERN, sequence, &[bytes_of(&[ask])])
    }

    /// Record the pages of a merged chunk, and ask for the next chunk or wake the caller.
    pub fn advance(
        &mut self,
        job: &Job,
        runs: &[wire::Run],
        merged: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let mut index = 0;
        for run in runs {
            let first = (run.address as usize).wrapping_sub(job.target) / pagemerge_pages::PAGE;
            for page in first..first.saturating_add(run.pages as usize).min(job.pages) {
                if merged(index + page - first) {
                    current.bits[page / 8] |= 1 << (page % 8);
                }
            }
            index += run.pages as usize;
        }
        current.done = (current.done + CHUNK).min(job.pages);
        current.deadline = Instant::now() + PATIENCE;
        if current.done < job.pages {
            return self.resume_job();
        }
        if let Some(current) = self.current.take() {
            current.job.finish(Ok(current.bits));
        }
        Ok(())
    }

    /// Give up if the caller has waited long enough. An answer that comes after that is ignored.
    pub fn give_up_late(&mut self) {
        if let Some(current) = self.current.take_if(|it| Instant::now() > it.deadline) {
            current.job.finish(Err(self.trouble.clone()));
        }
    }
}
