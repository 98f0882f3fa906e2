//! Finds processes that must not be attached, before anything is done to them.

use crate::error::{Error, Result};
use std::fs;
use std::io::Read;
use std::time::Duration;

/// The flag of kernel threads in field 9 of /proc/PID/stat (Linux, include/linux/sched.h).
const PF_KTHREAD: u64 = 0x0020_0000;
const ELFCLASS64: u8 = 2;

/// How often we look whether another process traces this one, and the time between looks.
const LOOKS: u32 = 250;
const PAUSE: Duration = Duration::from_millis(2);

/// Refuse a process that cannot, or must not, be made to do a system call.
///
/// # Errors
/// `Refused` with the reason; `Os` if the process has gone or may not be looked at.
pub fn check(pid: i32) -> Result<()> {
    let refused = |why: &str| Err(Error::Refused { pid, why: why.into() });
    if pid == std::process::id() as i32 {
        return refused("is this one, which cannot trace itself: use prctl(2) directly");
    }
    let stat = read(pid, "stat")?;
    let fields = stat_fields(&stat);
    let flags = fields.get(6).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    if flags & PF_KTHREAD != 0 {
        return refused("is a thread of the kernel and has no memory of its own");
    }
    let status = read(pid, "status")?;
    if let Some(tracer) = lasting_tracer(pid, &status)? {
        let why = format!("is traced by process {tracer} (a debugger?): end that one first");
        return Err(Error::Refused { pid, why });
    }
    // A process whose leader has ended while other threads run has no maps either; it is not worth
    // supporting.
    if matches!(fields.first(), Some(&("Z" | "X"))) {
        return refused("has ended, and its parent has not waited for it yet");
    }
    if elf_class(pid)?.is_some_and(|class| class != ELFCLASS64) {
        return refused("is a 32-bit program: pagemerge attaches 64-bit ones only");
    }
    Ok(())
}

/// The process that traces it, unless that is over in a moment: another pagemerge.
fn lasting_tracer(pid: i32, status: &str) -> Result<Option<i32>> {
    let tracer = |status: &str| field(status, "TracerPid:").and_then(|text| text.parse().ok());
    let mut found = tracer(status).filter(|&tracer| tracer != 0);
    for _ in 0..LOOKS {
        if found.is_none() {
            break;
        }
        std::thread::sleep(PAUSE);
        found = tracer(&read(pid, "status")?).filter(|&tracer| tracer != 0);
    }
    Ok(found)
}

/// The class of the program's file (elf(5)); None where it cannot be read (set-id programs).
fn elf_class(pid: i32) -> Result<Option<u8>> {
    let mut file = match fs::File::open(format!("/proc/{pid}/exe")) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            return Err(Error::of_proc("open of exe", &error, pid));
        }
        Err(_) => return Ok(None),
    };
    let mut head = [0; 5];
    let read = file.read_exact(&mut head).is_ok() && head.starts_with(b"\x7fELF");
    Ok(read.then_some(head[4]))
}

/// The fields of a `stat` file from the third, the state, on: the name before it may hold anything.
pub fn stat_fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect()
}

/// The value that follows `name` in the text of a `status` file.
pub fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn read(pid: i32, name: &'static str) -> Result<String> {
    match fs::read(format!("/proc/{pid}/{name}")) {
        Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(error) => Err(Error::of_proc("read of /proc", &error, pid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_refused_and_so_is_nobody() {
        let own = check(std::process::id() as i32).unwrap_err();
        assert!(own.to_string().contains("cannot trace itself"), "{own}");
        assert_eq!(check(i32::MAX).unwrap_err().errno(), Some(libc::ESRCH));
    }

    #[test]
    fn a_field_is_found_by_its_name() {
        let status = "Name:\tTracerPid:\nTracerPid:\t7\nSeccomp:\t2\n";
        assert_eq!(field(status, "TracerPid:"), Some("7"));
        assert_eq!(field(status, "Nothing:"), None);
    }
}
