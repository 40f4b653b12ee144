//! What the exit code means. Scripts rely on it; the numbers are fixed for good.

use std::process::ExitCode;

/// Of several units the highest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exit(u8);

impl Exit {
    pub const DONE: Exit = Exit(0);
    /// As in fleet 1.0, also when the API cannot be reached.
    pub const FAILED: Exit = Exit(1);
    pub const USAGE: Exit = Exit(2);
    /// Still under way at `--timeout` or after `--block-attempts`; what was asked for stays asked for.
    pub const PENDING: Exit = Exit(4);
    pub const UNPLACEABLE: Exit = Exit(5);
    /// Nobody leads, or the registry does not answer.
    pub const NO_ANSWER: Exit = Exit(6);
    /// Ended by Ctrl-C, as a shell reports SIGINT.
    pub const INTERRUPTED: Exit = Exit(130);
    /// Whoever read the output closed it; as a shell reports SIGPIPE.
    pub const OUTPUT_CLOSED: Exit = Exit(141);

    /// The code of a program that ran on a machine.
    pub fn of_remote(code: i32) -> Exit {
        Exit(u8::try_from(code).unwrap_or(255))
    }

    pub fn code(self) -> u8 {
        self.0
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.0)
    }
}
