//! Why a thread could not be made to do a call.

use crate::error::Error;

/// Why a thread could not be made to do a call. It has been let go, as it was.
#[derive(Debug)]
pub enum Trouble {
    /// It was at a bad moment; a little later it will not be.
    Again(String),
    /// This thread will not do.
    Stuck(String),
    /// No thread of the process will.
    Fatal(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}
