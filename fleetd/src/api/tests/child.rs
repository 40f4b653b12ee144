//! Parts of a test that need a process of their own: its memory, its descriptors, its environment.
//!
//! The program of the tests runs itself again with that one test and a role for it; without a role, a test starts the
//! roles and looks at what they did.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

const ROLE: &str = "FLEET_TEST_ROLE";
const DEADLINE: Duration = Duration::from_secs(120);

/// What this process is to do in the test; nothing for the first one.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// `script` is run by sh, and ends in what runs the test: `exec "$@"`. Standard input is a pipe unless it is replaced.
pub fn command(test: &str, role: &str, script: &str) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-ec", script, "sh"])
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Waits for the end of a role, which must be a success.
pub async fn succeeds(child: Child) -> String {
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.expect("it ends").unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A wrong name would run no test, with success.
    assert!(output.status.success() && out.contains("1 passed"), "{}\n{out}\n{err}", output.status);
    out.into_owned()
}
