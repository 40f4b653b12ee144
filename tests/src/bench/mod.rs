//! The figures of `make bench`: what each measures, what it has to reach, and how it was in this run.
//!
//! The command line `fleet-bench` runs them by name. A bench gives one or more [`Figure`]s; each is printed and
//! written to `target/bench/NAME.json`. Where a limit in milliseconds would judge the machine rather than fleet, the
//! figure is held against a *peer*: the same work done by the parts below, measured in the same run.
//!
//! A bench never asserts: a figure that misses its target is a figure with `ok = false`.

mod at_rest;
mod cluster;
mod embedded_put;
mod failover;
mod figure;
mod filled;
mod listing;
mod mass_start;
mod plan;
mod process;
mod pss_idle;
mod ready;
mod submit;
mod submit_alone;
mod synthetic;

pub use figure::{Figure, Samples, Target, table, write_json};

/// A place for progress lines of a bench.
pub type Say<'a> = &'a mut dyn FnMut(&str);

/// One bench as the command line knows it.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    pub name: &'static str,
    pub what: &'static str,
    /// Boots machines: needs root, and a fleetd and fleetctl beside this program.
    pub is_cluster: bool,
    pub run: fn(Say<'_>) -> anyhow::Result<Vec<Figure>>,
}

/// All benches, the cheap ones first.
pub const BENCHES: [Bench; 12] = [
    Bench {
        name: "plan_noop",
        what: "the engine's pass over 20,000 placed units on 1,000 machines: nothing dirty, and everything",
        is_cluster: false,
        run: plan::noop,
    },
    Bench {
        name: "plan_place",
        what: "placing 100,000 new units on 1,000 machines, one in five with Conflicts, metadata or MachineOf",
        is_cluster: false,
        run: plan::place,
    },
    Bench {
        name: "embedded_put",
        what: "writes a second of the embedded store with 1 and 64 writers, against the disk's fsync rate",
        is_cluster: false,
        run: embedded_put::run,
    },
    Bench {
        name: "submit_alone",
        what: "one unit from the request to active on one machine without etcd, against writing, linking and starting it",
        is_cluster: true,
        run: submit_alone::run,
    },
    Bench {
        name: "ready",
        what: "from the exec of fleetd to READY=1 on one machine with 200 units in its embedded store",
        is_cluster: true,
        run: ready::run,
    },
    Bench {
        name: "pss_idle",
        what: "fleetd's memory on one machine without units, with the embedded store and with etcd",
        is_cluster: true,
        run: pss_idle::run,
    },
    Bench {
        name: "list_units",
        what: "fleetctl list-units with 2,000 units on 100 machines, its time and its memory; and fleetctl version",
        is_cluster: true,
        run: listing::units,
    },
    Bench {
        name: "state_rows",
        what: "fleetd's memory while a client of API v1 reads 10,000 rows of states",
        is_cluster: true,
        run: listing::rows,
    },
    Bench {
        name: "submit_to_active",
        what: "one unit from the request to active, against etcd's commits and a bare systemctl start",
        is_cluster: true,
        run: submit::run,
    },
    Bench {
        name: "mass_start",
        what: "300 units at once on 3 machines, against systemd of the same machines driven directly",
        is_cluster: true,
        run: mass_start::run,
    },
    Bench {
        name: "failover",
        what: "a machine with 20 units loses its power: until all are active elsewhere",
        is_cluster: true,
        run: failover::run,
    },
    Bench {
        name: "at_rest",
        what: "300 units on 3 machines, settled: what fleetd costs while nothing changes",
        is_cluster: true,
        run: at_rest::run,
    },
];
