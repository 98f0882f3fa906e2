//! The only error type of the Rust side; the binding has the only table from it to Python.

use std::fmt;

/// What went wrong, and with which call, process or address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// A system call failed.
    Os {
        /// The call or interface, as its man page names it.
        call: &'static str,
        /// The error number.
        errno: i32,
        /// The process that the call was about, if any.
        pid: Option<i32>,
        /// The address that the call was about, if any.
        address: Option<u64>,
    },
    /// There is no memory of this many bytes.
    Memory {
        /// The number of bytes asked for.
        bytes: usize,
    },
    /// This kernel or this user cannot do it; the text says what would have to change.
    Unsupported(String),
    /// Something about this one process prevents it; the text names the cause and the cure.
    Refused {
        /// The process.
        pid: i32,
        /// The cause.
        why: String,
    },
    /// This process is not what it was when it asked to be read; the text says what has changed.
    Left {
        /// The process.
        pid: i32,
        /// What has changed.
        why: String,
    },
    /// The caller passed something that makes no sense.
    Usage(String),
    /// The hub cannot be reached, went away, or refused.
    Hub(String),
    /// The other side of a connection sent something that breaks the protocol.
    Protocol(String),
}

/// A `Result` with our error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The failure of `call`, from the thread's `errno`.
    #[must_use]
    pub fn last_os(call: &'static str) -> Self {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        Self::os(call, errno)
    }

    /// The failure of `call` with error number `errno`.
    #[must_use]
    pub const fn os(call: &'static str, errno: i32) -> Self {
        Self::Os { call, errno, pid: None, address: None }
    }

    /// The failure `error` of `call` on a file of `/proc/PID`.
    #[must_use]
    pub fn of_proc(call: &'static str, error: &std::io::Error, pid: i32) -> Self {
        let errno = match error.raw_os_error() {
            // /proc has no directory of that number.
            Some(libc::ENOENT) => libc::ESRCH,
            errno => errno.unwrap_or(0),
        };
        Self::os(call, errno).of_pid(pid)
    }

    /// Name the process that the error is about.
    #[must_use]
    pub fn of_pid(mut self, about: i32) -> Self {
        if let Self::Os { pid, .. } = &mut self {
            *pid = Some(about);
        }
        self
    }

    /// Name the address that the error is about.
    #[must_use]
    pub fn at(mut self, about: u64) -> Self {
        if let Self::Os { address, .. } = &mut self {
            *address = Some(about);
        }
        self
    }

    /// The error number, if a system call failed.
    #[must_use]
    pub const fn errno(&self) -> Option<i32> {
        match self {
            Self::Os { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// What an error number means, in the C library's words (strerror(3)).
#[must_use]
pub fn strerror(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    // The standard library adds the number, which tells a reader nothing.
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os { call, errno, pid, address } => {
                write!(f, "{call}: {}", strerror(*errno))?;
                if let Some(pid) = pid {
                    write!(f, ", process {pid}")?;
                }
                if let Some(address) = address {
                    write!(f, ", address {address:#x}")?;
                }
                Ok(())
            }
            Self::Memory { bytes } => write!(
                f,
                "there is no memory for {bytes} bytes: ask for less, or raise the limit of this \
                 process (ulimit -v) or of the host (vm.overcommit_memory)"
            ),
            Self::Refused { pid, why } | Self::Left { pid, why } => {
                write!(f, "process {pid} {why}")
            }
            Self::Unsupported(text)
            | Self::Usage(text)
            | Self::Hub(text)
            | Self::Protocol(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::os("system call", errno.raw_os_error())
    }
}
