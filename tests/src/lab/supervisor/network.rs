//! The lab's network: a bridge in the supervisor's network namespace, a namespace and a veth pair for each machine.
//! It lives as long as the lab; machines come and go in it, so an address is there before PID 1 runs.

use std::io::Write;
use std::process::Stdio;

use super::plain_command;
use crate::lab::LabError;
use crate::lab::layout::{NETWORK_PREFIX, etcd_address, machine_address};
use crate::lab::options::LabOptions;
use crate::lab::protocol::Cut;

const BRIDGE: &str = "lab0";
/// The machine's end of its cable, as nspawn names it.
const MACHINE_LINK: &str = "host0";

fn cable(machine: &str) -> String {
    format!("ve-{machine}")
}

/// Makes bridge, namespaces and cables; addresses of etcd members are addresses of the bridge.
pub(super) fn create(options: &LabOptions) -> Result<(), LabError> {
    let mut commands = format!("link set lo up\nlink add {BRIDGE} type bridge\n");
    for member in 1..=options.etcd.max(1) {
        commands.push_str(&format!("addr add {}/{NETWORK_PREFIX} dev {BRIDGE}\n", etcd_address(member)));
    }
    commands.push_str(&format!("link set {BRIDGE} up\n"));
    for machine in options.machine_names() {
        let cable = cable(&machine);
        commands.push_str(&format!(
            "netns add {machine}\n\
             link add {cable} type veth peer name {MACHINE_LINK} netns {machine}\n\
             link set {cable} master {BRIDGE} up\n"
        ));
    }
    batch(&[], &commands)?;
    for (machine, n) in options.machine_names().iter().zip(1..) {
        let commands = format!(
            "link set lo up\naddr add {}/{NETWORK_PREFIX} dev {MACHINE_LINK}\nlink set {MACHINE_LINK} up\n",
            machine_address(n)
        );
        batch(&["-n", machine], &commands)?;
    }
    Ok(())
}

/// Plugs or pulls the machine's cable at the bridge.
pub(super) fn plug(machine: &str, plugged: bool) -> Result<(), LabError> {
    batch(&[], &format!("link set {} {}\n", cable(machine), if plugged { "up" } else { "down" }))
}

/// Cuts the machine from `peers`, or from everything when there are none. Replaces an earlier cut.
///
/// The rules live in the machine's own namespace, so that connections between machine and host are cut both ways
/// whatever the host's bridge settings are.
pub(super) fn cut(machine: &str, peers: &[String], cut: Cut) -> Result<(), LabError> {
    let list = peers.join(", ");
    let (from, to) = if peers.is_empty() {
        (String::new(), String::new())
    } else {
        (format!("ip saddr {{ {list} }} "), format!("ip daddr {{ {list} }} "))
    };
    let mut rules = String::from(
        "table inet lab {}\ndelete table inet lab\ntable inet lab {\n\
         chain in { type filter hook input priority -300; policy accept; }\n\
         chain out { type filter hook output priority -300; policy accept; }\n}\n",
    );
    for (chain, link, peer) in [("in", "iifname", from), ("out", "oifname", to)] {
        if cut == Cut::Reject {
            rules.push_str(&format!(
                "add rule inet lab {chain} {link} \"{MACHINE_LINK}\" {peer}meta l4proto tcp reject with tcp reset\n"
            ));
        }
        rules.push_str(&format!("add rule inet lab {chain} {link} \"{MACHINE_LINK}\" {peer}drop\n"));
    }
    nft(machine, &rules)
}

/// Removes a cut; without one it does nothing.
pub(super) fn heal(machine: &str) -> Result<(), LabError> {
    nft(machine, "table inet lab {}\ndelete table inet lab\n")
}

fn nft(machine: &str, rules: &str) -> Result<(), LabError> {
    // Not `ip netns exec`: that mounts another /sys.
    feed("nsenter", &[&format!("--net=/run/netns/{machine}"), "nft", "-f", "-"], rules)
}

fn batch(arguments: &[&str], commands: &str) -> Result<(), LabError> {
    let arguments: Vec<_> = arguments.iter().copied().chain(["-batch", "-"]).collect();
    feed("ip", &arguments, commands)
}

/// Runs a program with `text` on standard input.
fn feed(program: &str, arguments: &[&str], text: &str) -> Result<(), LabError> {
    let mut child = plain_command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(LabError::spawn(program))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).map_err(LabError::spawn(program))?;
    }
    let output = child.wait_with_output().map_err(LabError::spawn(program))?;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::Command {
        command: format!("{program} {}", arguments.join(" ")),
        status: output.status.to_string(),
        output: format!("{}\ninput was:\n{text}", String::from_utf8_lossy(&output.stderr)),
    })
}
