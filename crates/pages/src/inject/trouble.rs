//! Why a thread could not be made to do a call.

use crate::error::Error;

/// Why a thread could not be made to do a call. The thread has been let go, as it was.
#[derive(Debug)]
pub enum Trouble {
    /// The thread was at a bad moment; a little later it may work.
    Again(String),
    /// This thread cannot be used.
    Stuck(String),
    /// No thread of the process can be used.
    Fatal(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}
