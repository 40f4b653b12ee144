//! A case as data: what is done and what the specification says comes of it. Made by [`super::reader`].

use std::path::PathBuf;

/// One file: the cases of one section of the specification.
#[derive(Debug)]
pub struct Section {
    /// As in `§5`.
    pub number: String,
    pub title: String,
    pub cases: Vec<Case>,
}

#[derive(Debug)]
pub struct Case {
    pub file: PathBuf,
    pub line: usize,
    /// The paragraph of the specification it was written from.
    pub cites: String,
    pub title: String,
    pub steps: Vec<Step>,
}

impl Case {
    pub fn name(&self) -> String {
        format!("{} {}", self.cites, self.title)
    }
}

#[derive(Debug)]
pub struct Step {
    pub line: usize,
    /// Tried again until the answer is as expected: for what the cluster does by itself.
    pub is_later: bool,
    pub act: Act,
}

#[derive(Debug)]
pub enum Act {
    /// Writes a file into the case's own directory.
    File {
        name: String,
        text: String,
    },
    Command(Command),
    Request(Request),
}

/// A line for a shell, in the case's directory or on a machine.
#[derive(Debug, Default)]
pub struct Command {
    pub machine: Option<String>,
    pub text: String,
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
    pub code: i32,
    /// Lines may come in any order.
    pub is_mixed: bool,
}

/// A request to the API of the first machine.
#[derive(Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<String>,
    pub answer: Answer,
}

#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// Those that are looked at.
    pub headers: Vec<(String, String)>,
    pub body: Vec<String>,
}
