//! Runs the contract and the figures of bulk starts against a real machine: `contract [ROOT]`, where ROOT is the
//! machine's file tree (`/proc/<leader>/root` for a container); without it, this machine. Needs root.

use std::path::PathBuf;

use fleet_systemd::{DbusSystemd, Options, contract};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let root: PathBuf = std::env::args_os().nth(1).unwrap_or_else(|| "/".into()).into();
    let bus_address = Some(format!("unix:path={}", root.join("run/dbus/system_bus_socket").display()));
    let systemd =
        DbusSystemd::connect(Options { bus_address, root, ..Options::default() }).await.expect("connect");
    contract::contract(&systemd).await;
    for (count, with_pins) in [(1, false), (100, false), (100, true), (300, false), (300, true)] {
        let figures = contract::measure_starts(&systemd, count, with_pins).await;
        #[expect(clippy::print_stdout, reason = "the output of this program")]
        {
            println!("{count} units, pins {with_pins}: {figures:?}");
        }
    }
}
