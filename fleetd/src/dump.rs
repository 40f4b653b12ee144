//! SIGUSR1: what this machine's agent knows, as one line of JSON on standard output, laid out as fleet 1.0 did.
//!
//! Started by `main`. It only looks: nothing is asked, and a line that nobody reads changes nothing.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use fleet_core::MachineId;
use fleet_core::records::{StateRow, Wanted};
use serde_json::{Map, Value, json};
use tokio::signal::unix::Signal;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use unit_files::UnitName;

/// What the machine says of its units.
pub type Units = Arc<BTreeMap<UnitName, StateRow>>;

/// Prints a line at each signal.
pub async fn run(
    machine: MachineId,
    units: impl Fn() -> Units,
    mut asked: Signal,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            received = asked.recv() => if received.is_none() { return },
        }
        let line = format!("{}\n", line(&machine, &units()));
        // On a thread of its own: a pipe that nobody reads holds up nothing else, nor the end of the process.
        let (done, printed) = oneshot::channel();
        let print = move || {
            let mut stdout = std::io::stdout().lock();
            // Whoever waited may have gone.
            let _ = done.send(stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()));
        };
        let printed = async {
            std::thread::Builder::new().name("dump".into()).spawn(print)?;
            printed.await.unwrap_or(Ok(()))
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            printed = printed => if let Err(error) = printed {
                warn!(%error, "SIGUSR1: the state cannot be printed");
            },
        }
    }
}

/// Rows that wait for the registry are not told apart from those that are there, so that nothing stands in `ToPublish`.
fn line(machine: &MachineId, units: &BTreeMap<UnitName, StateRow>) -> Value {
    let mut wanted = Map::new();
    let mut published = Map::new();
    for (name, row) in units {
        if let Some(state @ (Wanted::Loaded | Wanted::Launched)) = row.wanted {
            wanted.insert(name.to_string(), state.as_str().into());
        }
        let hash = row.unit_hash.map(|hash| hash.to_string()).unwrap_or_default();
        let state = json!({
            "LoadState": row.load, "ActiveState": row.active, "SubState": row.sub,
            "MachineID": machine, "UnitHash": hash, "UnitName": name,
        });
        published.insert(name.to_string(), state);
    }
    let subscribed: Vec<&UnitName> = units.keys().collect();
    json!({
        "Agent": { "Cache": { "TargetStates": wanted } },
        "UnitStatePublisher": { "Cache": published, "ToPublish": {} },
        "UnitStateGenerator": { "Subscribed": subscribed },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_keys_of_fleet_1_and_only_orders_that_stand() {
        let row = |wanted: Value| {
            serde_json::from_value::<StateRow>(json!({
                "uid": "u", "wanted": wanted, "load": "loaded", "active": "active", "sub": "running",
                "unit_hash": "86943ac9f3754cb90f8dd38bf6da7b0cad074592",
            }))
        };
        let unit = |name: &str| UnitName::parse(name).unwrap();
        let units = BTreeMap::from([
            (unit("a.service"), row(json!("launched")).unwrap()),
            (unit("b.service"), row(Value::Null).unwrap()),
            (unit("c.service"), row(json!("gone")).unwrap()),
        ]);
        let line = line(&MachineId::parse("m1").unwrap(), &units);
        assert_eq!(line["Agent"], json!({ "Cache": { "TargetStates": { "a.service": "launched" } } }));
        assert_eq!(
            line["UnitStatePublisher"]["Cache"]["a.service"],
            json!({ "LoadState": "loaded", "ActiveState": "active", "SubState": "running", "MachineID": "m1",
                    "UnitHash": "86943ac9f3754cb90f8dd38bf6da7b0cad074592", "UnitName": "a.service" })
        );
        assert_eq!(line["UnitStatePublisher"]["ToPublish"], json!({}));
        assert_eq!(line["UnitStateGenerator"]["Subscribed"], json!(["a.service", "b.service", "c.service"]));
        assert!(!line.to_string().contains('\n'));
    }
}
