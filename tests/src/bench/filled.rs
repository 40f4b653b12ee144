//! A cluster as it is with many machines, on one real one: the records of the others are written as their agents and the
//! engine would have, in one transaction, so that the leader finds nothing to do.

use anyhow::{Context, ensure};
use etcd_client::{Client, ConnectOptions, PutOptions, Txn, TxnOp};
use fleet_core::plan::{Write, plan};
use fleet_core::world::{Event, World};
use fleet_registry::codec::encode;
use fleet_registry::keys::{DEFAULT_PREFIX, Key, Keys};
use tokio::runtime::Builder;

use super::cluster::{Cluster, on_lab};
use super::synthetic::{NOW, Synthetic, carried_out};
use crate::lab::{Lab, LabOptions};

/// Longer than any bench.
const LEASE_SECONDS: i64 = 3600;
/// More passes than this settle no plan that is right.
const PASSES_TO_REST: usize = 5;

/// Runs `work` on one real machine with etcd, in a cluster of `machines` more that have `units` active units between
/// them.
///
/// # Errors
/// When the lab does not boot or etcd does not take the records, and those of `work`.
pub fn on_filled<T>(
    subject: &str,
    machines: usize,
    units: usize,
    work: impl FnOnce(&Cluster) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut options = LabOptions::for_test(subject).machines(1);
    options.etcd_arguments =
        ["--max-txn-ops=1000000", "--max-request-bytes=268435456"].map(str::to_owned).to_vec();
    on_lab(options, |cluster| {
        let records = Records::of(machines, units)?;
        write(&cluster.lab, &records)?;
        cluster.await_present(machines + 1)?;
        work(cluster)
    })
}

#[derive(Default)]
struct Records {
    lasting: Vec<(Key, Vec<u8>)>,
    /// Under the machines' leases.
    leased: Vec<(Key, Vec<u8>)>,
}

impl Records {
    fn of(machines: usize, units: usize) -> anyhow::Result<Records> {
        let mut synthetic = Synthetic::default();
        let mut events = vec![synthetic.cluster()?];
        for n in 1..=machines {
            events.extend(synthetic.machine(&format!("{n:032x}"), &[("zone", format!("z{}", n % 10))])?);
        }
        for n in 0..units {
            events.push(synthetic.unit(&format!("web-{n:05}.service"), "")?);
        }
        let mut records = Records::default();
        for event in &events {
            match event {
                Event::Machine(id, Some(record)) => {
                    records.lasting.push((Key::Machine(id.clone()), encode(&record.value)));
                }
                Event::Presence(id, Some(record)) => {
                    records.leased.push((Key::Presence(id.clone()), encode(&record.value)));
                }
                Event::Unit(name, Some(record)) => {
                    records.lasting.push((Key::Unit(name.clone()), encode(&record.value)));
                }
                // The lab has its own.
                _ => {}
            }
        }
        let mut world = World::from_events(events);
        for _ in 0..PASSES_TO_REST {
            let planned = plan(&world, &synthetic.policy(), NOW);
            if planned.groups.is_empty() && world.dirty().is_empty() {
                ensure!(world.placed() == units, "{} of {units} units were placed", world.placed());
                return Ok(records);
            }
            for write in planned.groups.iter().flat_map(|group| &group.writes) {
                records.take(write);
            }
            synthetic.carry_out(&mut world, &planned);
        }
        anyhow::bail!("the synthetic cluster does not come to rest")
    }

    /// What the plan writes, and what the machine answers.
    fn take(&mut self, write: &Write) {
        match write {
            Write::PutOrder(machine, unit, order) => {
                self.lasting.push((Key::Order(machine.clone(), unit.clone()), encode(&**order)));
                let mut row = carried_out(order);
                row.unit_hash = Some(order.unit_hash);
                row.on_disk = Some(order.content);
                row.running = Some(order.run_hash);
                row.invocation = format!("{:032x}", self.lasting.len());
                self.lasting.push((Key::State(machine.clone(), unit.clone()), encode(&row)));
            }
            Write::PutPlacement(unit, placement) => {
                self.lasting.push((Key::Placement(unit.clone()), encode(&**placement)));
            }
            // Nothing is taken back where nothing was before.
            _ => {}
        }
    }
}

fn write(lab: &Lab, records: &Records) -> anyhow::Result<()> {
    lab.in_network(|| {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let keys = Keys::new(DEFAULT_PREFIX)?;
            let mut client = Client::connect(lab.etcd().urls(), None::<ConnectOptions>).await?;
            let lease = client.lease_grant(LEASE_SECONDS, None).await?.id();
            let leased = |(key, value): &(Key, Vec<u8>)| {
                TxnOp::put(keys.key(key), value.clone(), Some(PutOptions::new().with_lease(lease)))
            };
            let lasting = |(key, value): &(Key, Vec<u8>)| TxnOp::put(keys.key(key), value.clone(), None);
            let mut ops: Vec<TxnOp> = records.leased.iter().map(leased).collect();
            ops.extend(records.lasting.iter().map(lasting));
            client.txn(Txn::new().and_then(ops)).await.context("writing the records of the others")?;
            Ok(())
        })
    })?
}
