//! `fleetctl cluster health`: whether the store and the machine that answers are well, and what to do if not.

use fleet_api::v2::{EndpointView, HealthView};

use crate::change;
use crate::connection::Connection;
use crate::exit::Exit;
use crate::flags::OutputFlag;
use crate::output::table::render;
use crate::output::{self, json};

/// Exits with 1 if there is an error among the problems, not for warnings.
pub async fn run(connection: &Connection, output: OutputFlag) -> anyhow::Result<Exit> {
    let view = match connection.health().await {
        Ok(view) => view,
        Err(error) => {
            output::note(format!("Error retrieving the health of the cluster: {error}"));
            return Ok(change::exit_of(&error));
        }
    };
    if output.is_json() {
        json::print(&view)?;
    } else {
        output::raw(text(&view))?;
    }
    Ok(if view.healthy { Exit::DONE } else { Exit::FAILED })
}

fn text(view: &HealthView) -> String {
    let header =
        ["ENDPOINT", "MEMBER", "VERSION", "ROLE", "TERM", "REVISION", "SIZE", "IN USE", "QUOTA", "ALARMS"];
    let header = header.map(str::to_owned);
    let rows: Vec<Vec<String>> = view.endpoints.iter().map(row).collect();
    let mut out = render(Some(&header), &rows);
    if let Some(history) = view.history {
        out.push_str(&format!("\nHistory: {history} revisions since the last compaction\n"));
    }
    out.push('\n');
    for problem in &view.problems {
        let level = if problem.is_error { "ERROR" } else { "WARNING" };
        let subject =
            if problem.subject.is_empty() { String::new() } else { format!("{}: ", problem.subject) };
        out.push_str(&format!("{level} {} {subject}{}\n", problem.code, problem.text));
        if !problem.remedy.is_empty() {
            out.push_str(&format!("    {}\n", problem.remedy));
        }
    }
    out.push_str(if view.healthy { "healthy\n" } else { "NOT healthy\n" });
    out
}

fn row(view: &EndpointView) -> Vec<String> {
    if !view.reachable {
        let mut cells = vec![view.endpoint.clone(), "-".to_owned(), "-".to_owned(), "no answer".to_owned()];
        cells.resize(10, "-".to_owned());
        return cells;
    }
    let role = match view {
        EndpointView { is_leader: true, .. } => "leader",
        EndpointView { is_learner: true, .. } => "learner",
        EndpointView { has_leader: false, .. } => "no leader",
        _ => "follower",
    };
    let alarms = view.alarms.join(",");
    vec![
        view.endpoint.clone(),
        output::or_dash(&view.member).to_owned(),
        output::or_dash(&view.version).to_owned(),
        role.to_owned(),
        view.raft_term.to_string(),
        view.revision.to_string(),
        size(view.size),
        size(view.size_in_use),
        view.quota.map_or_else(|| "-".to_owned(), size),
        output::or_dash(&alarms).to_owned(),
    ]
}

/// In the unit that leaves it readable, rounded up.
fn size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=10_485_759 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{} MiB", bytes.div_ceil(1 << 20)),
    }
}

#[cfg(test)]
mod tests {
    use fleet_api::v2::ProblemView;

    use super::*;

    #[test]
    fn endpoints_come_as_a_table_and_problems_with_their_remedy() {
        let leader = EndpointView {
            endpoint: "https://e1:2379".to_owned(),
            reachable: true,
            version: "3.5.16".to_owned(),
            member: "8e9e05c52164694d".to_owned(),
            is_leader: true,
            has_leader: true,
            revision: 1_234,
            raft_term: 2,
            size: 20_480,
            size_in_use: 16_384,
            quota: Some(2 << 30),
            alarms: vec!["NOSPACE".to_owned()],
            ..EndpointView::default()
        };
        let dead = EndpointView { endpoint: "https://e2:2379".to_owned(), ..EndpointView::default() };
        let problem = ProblemView {
            is_error: true,
            code: "no-space".to_owned(),
            subject: "https://e1:2379".to_owned(),
            text: "it takes no write".to_owned(),
            remedy: "etcdctl compact 1234".to_owned(),
        };
        let view = HealthView {
            endpoints: vec![leader, dead],
            problems: vec![problem],
            history: Some(34),
            ..HealthView::default()
        };
        let text = text(&view);
        let cells = |line: usize| -> Vec<&str> {
            text.lines().nth(line).unwrap().split('\t').filter(|cell| !cell.is_empty()).collect()
        };
        assert_eq!(
            cells(1),
            [
                "https://e1:2379",
                "8e9e05c52164694d",
                "3.5.16",
                "leader",
                "2",
                "1234",
                "20 KiB",
                "16 KiB",
                "2048 MiB",
                "NOSPACE"
            ]
        );
        assert_eq!(cells(2)[..4], ["https://e2:2379", "-", "-", "no answer"]);
        let end = "\nHistory: 34 revisions since the last compaction\n\nERROR no-space https://e1:2379: it takes no \
                   write\n    etcdctl compact 1234\nNOT healthy\n";
        assert!(text.ends_with(end), "{text}");
    }
}
