//! Prints a machine's systemd events as they come: `watch [ROOT]`. For finding out what systemd really says.

use std::path::PathBuf;

use fleet_systemd::{DbusSystemd, Options, Systemd};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let root: PathBuf = std::env::args_os().nth(1).unwrap_or_else(|| "/".into()).into();
    let bus_address = Some(format!("unix:path={}", root.join("run/dbus/system_bus_socket").display()));
    let systemd =
        DbusSystemd::connect(Options { bus_address, root, ..Options::default() }).await.expect("connect");
    let mut events = systemd.events();
    while let Some(event) = events.recv().await {
        #[expect(clippy::print_stdout, reason = "the output of this program")]
        {
            println!("{event:?}");
        }
    }
}
