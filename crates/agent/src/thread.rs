//! The agent's thread: one connection, one loop.

mod births;
mod connecting;

use crate::adopt::Looks;
use crate::apply::apply;
use crate::barriers::Barriers;
use crate::slabs::Slab;
use crate::{ending, lock, own, Config, HUBLESS, SAVED};
use births::{Current, CHUNK};
use connecting::{standing, Standing};
use pagemerge_pages::barrier::pins::AGENT;
use pagemerge_pages::wire::{self, bytes_of, kind, values_of, Connection, Frame, Hello};
use pagemerge_pages::{slab, Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Start the thread.
pub fn start(config: Config) -> Result<own::Thread> {
    own::thread(move || {
        // Before the thread opens anything: what it has open does not belong to the program.
        AGENT.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
        run(&config);
    })
}

struct Agent<'a> {
    config: &'a Config,
    barriers: Barriers,
    connection: Option<Connection>,
    slabs: HashMap<u64, Slab>,
    current: Option<Current>,
    sequence: u64,
    last_note: String,
    /// The largest number of pages that any hub has been told of; regions may have gone while a
    /// plan was on its way.
    told: usize,
    next_try: Instant,
    tries: u32,
    /// How often in a row a hub has hung up without a welcome.
    dismissed: u32,
    trouble: Error,
    /// Our standing when we received the slabs.
    standing: Standing,
    /// When to look for memory that nobody marked.
    looks: Looks,
}

fn run(config: &Config) {
    let signals = match own::descriptors() {
        Ok(signals) => signals,
        Err(error) => {
            let mut state = lock();
            state.summary.reason = error.to_string();
            state.jobs.drain(..).for_each(|job| job.finish(Err(error.clone())));
            state.broken = Some(error);
            return;
        }
    };
    own::give_way();
    let barriers = Barriers::choose(config.barrier);
    {
        let mut state = lock();
        state.agent = rustix::thread::gettid().as_raw_nonzero().get();
        state.summary.barrier = Some(barriers.kind());
        state.summary.reason = barriers.reason().to_owned();
    }
    let mut agent = Agent {
        config,
        barriers,
        connection: None,
        slabs: HashMap::new(),
        current: None,
        sequence: 0,
        last_note: String::new(),
        told: 0,
        next_try: Instant::now(),
        tries: 0,
        dismissed: 0,
        trouble: Error::Hub("the hub does not answer".into()),
        standing: standing(),
        looks: Looks::default(),
    };
    loop {
        if agent.ends() {
            return;
        }
        agent.connect();
        agent.next_job();
        agent.give_up_late();
        agent.wait(&signals);
        if let Err(error) = agent.converse() {
            agent.disconnect(&error);
        }
    }
}

impl Agent<'_> {
    /// Returns whether the program has the agent end. Callers that wait for it wait no longer.
    fn ends(&mut self) -> bool {
        let mut state = lock();
        if !state.ends {
            return false;
        }
        let error = Error::Hub("the process is changing its credentials".into());
        state.jobs.drain(..).for_each(|job| job.finish(Err(error.clone())));
        if let Some(current) = self.current.take() {
            current.job.finish(Err(error));
        }
        true
    }

    /// Wait until something arrives, a thread pokes us, or it is time to connect again.
    fn wait(&mut self, signals: &OwnedFd) {
        let pause = match (&self.connection, self.current.is_some()) {
            (Some(_), false) => None,
            (Some(_), true) => Some(Duration::from_millis(500)),
            (None, _) => Some(
                self.next_try
                    .saturating_duration_since(Instant::now())
                    .max(Duration::from_millis(1)),
            ),
        };
        let look = self.looks.go();
        let idle = self.connection.is_none()
            && self.current.is_none()
            && lock().table.iter().next().is_none();
        let pause = if idle { None } else { pause };
        let pause = pause.into_iter().chain(look).min();
        let pause = pause.into_iter().chain(ending::pause()).min();
        let timeout = pause.map(|pause| Timespec {
            tv_sec: pause.as_secs() as i64,
            tv_nsec: i64::from(pause.subsec_nanos()),
        });
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        if let Some(connection) = &self.connection {
            fds.push(PollFd::from_borrowed_fd(connection.socket(), PollFlags::IN));
        }
        let _ = rustix::event::poll(&mut fds, timeout.as_ref());
        let mut state = lock();
        if state.poked {
            // Read exactly one signal, which is ours: one more could be the program's own.
            let mut info = [0_u8; 128];
            if rustix::io::read(signals, &mut info).is_ok() {
                state.poked = false;
            }
        } else if fds[0].revents().contains(PollFlags::IN) {
            // The program has this signal pending for itself; leave it, and do not spin.
            drop(state);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn converse(&mut self) -> Result<()> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        connection.receive()?;
        while let Some(connection) = &mut self.connection {
            let Some(frame) = connection.next_frame()? else { break };
            self.handle(frame)?;
        }
        Ok(())
    }

    fn handle(&mut self, frame: Frame) -> Result<()> {
        match frame.kind {
            kind::WELCOME => {
                let hello = values_of::<Hello>(&frame.body)?;
                if hello.first().is_none_or(|hello| hello.version != wire::VERSION) {
                    return Err(Error::Protocol("the hub has another version".into()));
                }
                self.dismissed = 0;
                HUBLESS.store(false, Ordering::Relaxed);
                Ok(())
            }
            kind::LIST => self.tell_regions(frame.sequence),
            kind::SLAB => self.take_slab(),
            kind::MERGE => self.merge(&frame),
            kind::DROP => {
                for id in frame.body.chunks_exact(8) {
                    let mut bytes = [0; 8];
                    bytes.copy_from_slice(id);
                    self.slabs.remove(&u64::from_ne_bytes(bytes));
                }
                Ok(())
            }
            kind::SAVED => {
                for told in values_of::<wire::Saved>(&frame.body)? {
                    if told.merged > SAVED.0.load(Ordering::Relaxed) {
                        SAVED.1.store(told.saved, Ordering::Relaxed);
                        SAVED.0.store(told.merged, Ordering::Relaxed);
                    }
                }
                Ok(())
            }
            kind::REFUSED => {
                let text = String::from_utf8_lossy(&frame.body).into_owned();
                if frame.sequence == 0 {
                    return Err(Error::Hub(text)); // we may not join
                }
                if let Some(current) = self.current.take_if(|it| it.sequence == frame.sequence) {
                    current.job.finish(Err(Error::Hub(text)));
                }
                Ok(())
            }
            other => Err(Error::Protocol(format!("a frame of unknown kind {other}"))),
        }
    }

    fn send(&mut self, kind: u32, sequence: u64, body: &[&[u8]]) -> Result<()> {
        match &mut self.connection {
            Some(connection) => connection.send(kind, sequence, body, None),
            None => Err(Error::Hub("not connected".into())),
        }
    }

    fn tell_regions(&mut self, sequence: u64) -> Result<()> {
        let regions: Vec<wire::Region> = lock()
            .table
            .iter()
            .filter_map(|region| {
                Some(wire::Region {
                    id: region.id,
                    start: region.start as u64,
                    pages: region.pages as u64,
                    marks: region.marks()?,
                    left: region.left,
                })
            })
            .collect();
        self.told = self.told.max(regions.iter().map(|region| region.pages as usize).sum());
        self.send(kind::REGIONS, sequence, &[bytes_of(&regions)])
    }

    fn take_slab(&mut self) -> Result<()> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        // If no descriptor is left, plans that name the slab are refused with a note, and the rest
        // goes on.
        let Some(descriptor) = connection.take_descriptor()? else { return Ok(()) };
        // The hub is checked like any other peer: memory that could still be changed is never
        // mapped.
        let pages = slab::check(&descriptor)? as u32;
        self.slabs.insert(slab::id(&descriptor)?, Slab { descriptor, pages });
        Ok(())
    }

    fn merge(&mut self, frame: &Frame) -> Result<()> {
        let runs = values_of::<wire::Run>(&frame.body)?;
        // A plan costs us one bit for each page, and more for each report: so a plan may not name
        // more pages than the hub has been told of.
        let pages: usize = runs.iter().map(|run| run.pages as usize).sum();
        if pages > self.told.max(CHUNK) {
            return Err(Error::Protocol("a plan for more pages than this process has".into()));
        }
        let birth = self
            .current
            .as_ref()
            .filter(|current| current.sequence == frame.sequence && frame.sequence != 0)
            .map(|current| Arc::clone(&current.job));
        if birth.is_none() && frame.sequence & 1 == 1 {
            // This answers a job whose caller has given up. The hub keeps the slabs until it is
            // told that no process maps them.
            let bits = vec![0; pages.div_ceil(8)];
            let report = [wire::Merged { unwanted: pages as u64, ..wire::Merged::default() }];
            return self.send(kind::MERGED, frame.sequence, &[bytes_of(&report), &bits]);
        }
        let awaited = self.current.as_ref().filter(|_| birth.is_none()).map(|it| &*it.job);
        let applied = apply(&mut self.barriers, &self.slabs, &runs, birth.as_deref(), awaited);
        if self.barriers.current_note() != self.last_note {
            self.last_note = self.barriers.current_note().to_owned();
            let note = self.last_note.clone();
            self.send(kind::NOTE, 0, &[note.as_bytes()])?;
        }
        let report = [applied.report];
        self.send(kind::MERGED, frame.sequence, &[bytes_of(&report), &applied.bits])?;
        if let Some(job) = birth {
            self.advance(&job, &runs, |index| applied.has(index))?;
        }
        Ok(())
    }
}
