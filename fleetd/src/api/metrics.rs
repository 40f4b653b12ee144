//! Counts and states in the text format of Prometheus. Names that fleet 1.0 had are kept where they mean the same.

use std::fmt::Write;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;

use super::state::Api;
use super::v2::typed;

/// The media type of the format's version.
const MEDIA: &str = "text/plain; version=0.0.4";

pub(super) async fn metrics(State(api): State<Api>) -> Response {
    typed(MEDIA, Body::from(render(&api)))
}

fn render(api: &Api) -> String {
    let mut text = Text::default();
    let (session, agent, engine) = (api.session.session(), api.agent.agent(), api.engine.engine());
    text.gauge("fleet_build_info", "Release of fleetd.", &format!("{{version=\"{}\"}}", api.version), 1.0);
    text.gauge("fleet_registry_connected", "1 if the registry answers.", "", flag(session.is_connected));
    text.gauge("fleet_presence_held", "1 if this machine is present.", "", flag(session.has_presence));
    text.gauge("fleet_agent_orders", "Orders of this machine.", "", agent.orders as f64);
    text.gauge("fleet_agent_busy", "Orders that are not carried out yet.", "", agent.busy as f64);
    let leading = engine.leading_since.map_or(0.0, |since| since.0 as f64 / 1000.0);
    text.gauge(
        "fleet_engine_leader_start_time",
        "When this machine became leader, in seconds since the epoch; 0 if it does not lead.",
        "",
        leading,
    );
    text.gauge("fleet_engine_frozen_orders", "Orders without a readable unit.", "", engine.frozen as f64);
    text.gauge(
        "fleet_engine_brake_engaged",
        "1 if this leader holds evictions or moves back.",
        "",
        flag(engine.is_braked),
    );
    for (name, value) in &engine.counters {
        text.counter(&format!("fleet_engine_{name}"), "Of this machine's engine.", *value);
    }
    let mut before = "";
    for (name, kind, value) in &engine.tasks {
        if *name != before {
            text.head(&format!("fleet_engine_{name}"), task_help(name), "counter");
        }
        text.value(&format!("fleet_engine_{name}"), &format!("{{type=\"{kind}\"}} {value}"));
        before = name;
    }
    for (name, value) in &agent.counters {
        text.counter(&format!("fleet_agent_{name}"), "Of this machine's agent.", *value);
    }
    let registry = api.registry.counters();
    for (name, help, value) in [
        ("read_count_total", "Read requests.", registry.reads()),
        ("write_count_total", "Writing transactions that were tried.", registry.writes()),
        ("watch_count_total", "Watches opened.", registry.watches()),
        ("relist_count_total", "Followed views that were listed anew.", registry.relists()),
        ("disconnection_count_total", "Lists of followed views that failed.", registry.disconnections()),
        ("audit_count_total", "Audits of followed views.", registry.audits()),
        ("audit_difference_count_total", "Keys that audits found wrong.", registry.audit_differences()),
        ("undecodable_count_total", "Values read that this release cannot read.", registry.undecodable()),
        (
            "unknown_outcome_count_total",
            "Writes of which nobody told the outcome.",
            registry.unknown_outcomes(),
        ),
    ] {
        text.counter(&format!("fleet_registry_{name}"), help, value);
    }
    text.0
}

/// What the names of fleet 1.0 count.
fn task_help(name: &str) -> &'static str {
    match name {
        "task_count_total" => "Units that this leader gave to a machine or took from one.",
        "task_failure_count_total" => "The same where the registry did not take it; it is planned again.",
        "reconcile_failure_count_total" => {
            "Units taken from lost machines, passes that the registry did not take, and decisions that no machine can \
             take a unit."
        }
        _ => "Of this machine's engine.",
    }
}

fn flag(is_set: bool) -> f64 {
    if is_set { 1.0 } else { 0.0 }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn gauge(&mut self, name: &str, help: &str, labels: &str, value: f64) {
        self.line(name, help, "gauge", &format!("{labels} {value}"));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.line(name, help, "counter", &format!(" {value}"));
    }

    fn line(&mut self, name: &str, help: &str, kind: &str, rest: &str) {
        self.head(name, help, kind);
        self.value(name, rest);
    }

    /// Of all values of one name, which follow it.
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, rest: &str) {
        let _ = writeln!(self.0, "{name}{rest}");
    }
}
