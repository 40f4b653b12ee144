//! Sending a batch of changes and waiting for it: one request and one wait, however many units there are.
//!
//! Called by the commands that change something. What to send is theirs; lines, order and exit code are made here.

use std::collections::BTreeMap;

use fleet_api::client::ClientError;
use fleet_api::v2::{ActionResult, ChangeRequest, Progress, Verb, WaitUnit};
use serde::Serialize;

use crate::connection::Connection;
use crate::content::Prepared;
use crate::exit::Exit;
use crate::flags::WaitFlags;
use crate::output::{self, json, progress::Live};
use crate::report;
use crate::wait::{self, Goal, Outcome};

#[derive(Debug)]
pub struct Options<'a> {
    /// None: nothing to wait for.
    pub wait: Option<&'a WaitFlags>,
    pub json: bool,
    pub why: &'a str,
    /// What is not sent because the unit's state forbids it.
    pub refused: Vec<Refused>,
}

/// A unit that the command itself refuses, and what it says of that.
#[derive(Debug)]
pub struct Refused {
    pub unit: String,
    pub text: String,
}

/// What became of one unit, for `-o json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    #[serde(flatten)]
    result: ActionResult,
    /// `done`, `failed`, `unplaceable`, `superseded`, `pending`, `no-answer`, `refused`, `requested`.
    outcome: &'static str,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Progress>,
}

/// Tells what is refused, sends `prepared` as one request and waits as the options say. Prints everything about it.
pub async fn carry_out(
    connection: &Connection,
    verb: Verb,
    prepared: Vec<Prepared>,
    options: &Options<'_>,
) -> anyhow::Result<Exit> {
    let mut batch =
        Batch { verb, options, exit: Exit::DONE, told: Vec::new(), sent: Vec::new(), first_trouble: None };
    for refused in &options.refused {
        batch.refused(refused);
    }
    if prepared.is_empty() && !options.refused.is_empty() {
        return batch.print();
    }
    let request = ChangeRequest {
        request_id: uuid::Uuid::new_v4().simple().to_string(),
        by: Some(who()),
        why: (!options.why.is_empty()).then(|| options.why.to_owned()),
        dry_run: false,
        resent: false,
        actions: prepared.iter().map(|one| one.action.clone()).collect(),
    };
    let report = if prepared.is_empty() {
        Ok(Vec::new())
    } else {
        connection.change(request).await.map(|report| report.results)
    };
    let results = match report {
        Ok(results) => results,
        Err(error) => {
            output::note(format!("Error {} units: {error}", report::gerund(verb)));
            return Ok(exit_of(&error));
        }
    };
    anyhow::ensure!(
        results.len() == prepared.len(),
        "the server answered for {} of {} units; check that its version is not older than that of fleetctl",
        results.len(),
        prepared.len()
    );
    let mut to_wait = Vec::new();
    let mut waited = BTreeMap::new();
    for (one, result) in prepared.into_iter().zip(results) {
        to_wait.extend(batch.answered(&one, &result)?);
        waited.insert(result.unit.clone(), (one, result));
    }
    if let Some(flags) = options.wait.filter(|flags| !flags.no_block && !to_wait.is_empty()) {
        let goal = Goal {
            desired: report::state_after(verb),
            is_withdrawal: matches!(verb, Verb::Stop | Verb::Unload | Verb::Destroy),
        };
        let mut live = Live::new(!options.json);
        let waiting =
            wait::wait(connection, goal, to_wait, flags.limit(), &mut live, |live, unit, outcome| {
                live.clear();
                let (one, result) = waited.get(unit).expect("only units of this batch are waited for");
                batch.settled(one, result, outcome)
            });
        tokio::select! {
            waited = waiting => waited?,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                live.clear();
                output::note("Interrupted. What was asked for stays wanted; see fleetctl list-unit-files");
                return Ok(Exit::INTERRUPTED);
            }
        }
    }
    batch.finish()
}

/// Who asks, for the cluster's events. The server knows better where it can.
pub fn who() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host.trim())
}

/// Of a request that was not carried out at all.
pub fn exit_of(error: &ClientError) -> Exit {
    match error.api() {
        // The daemon is there and cannot reach the registry.
        Some((503, _)) => Exit::NO_ANSWER,
        _ => Exit::FAILED,
    }
}

struct Batch<'a> {
    verb: Verb,
    options: &'a Options<'a>,
    exit: Exit,
    told: Vec<Told>,
    /// Not global, and taken by the server; for the closing line of `stop` and `unload`.
    sent: Vec<String>,
    first_trouble: Option<String>,
}

impl Batch<'_> {
    /// No trouble of what was sent, so that the closing line speaks of that alone, as in fleet 1.0.
    fn refused(&mut self, refused: &Refused) {
        output::note(&refused.text);
        let result = ActionResult { unit: refused.unit.clone(), ..ActionResult::default() };
        self.tell(&result, "refused", Exit::FAILED, Some(refused.text.clone()), None);
    }

    /// Tells what the server answered at once; the unit to wait for, if there is something to wait for.
    fn answered(&mut self, one: &Prepared, result: &ActionResult) -> anyhow::Result<Option<WaitUnit>> {
        let unit = &result.unit;
        for warning in result.warnings.iter().filter(|warning| !one.warnings.contains(warning)) {
            output::log!("WARN", "Unit {unit}: {warning}");
        }
        if let Some(error) = &result.error {
            if self.verb == Verb::Destroy && error.code == 404 {
                return Ok(None);
            }
            let (code, is_new) = (error.code, one.before.is_none());
            let text = if is_new {
                format!("Error creating units: failed creating unit {unit}: googleapi: Error {code}: {error}")
            } else {
                format!("Error {} units: googleapi: Error {code}: {error}", report::gerund(self.verb))
            };
            self.trouble(&text);
            let exit = if code == 503 { Exit::NO_ANSWER } else { Exit::FAILED };
            self.tell(result, "refused", exit, Some(text), None);
            return Ok(None);
        }
        if result.created {
            self.line(format!("Unit {unit} inactive"))?;
        }
        let Some(wait) = self.options.wait else {
            self.tell(result, "done", Exit::DONE, None, None);
            return Ok(None);
        };
        let is_new = !self.is_as_before(one);
        if result.global && self.verb != Verb::Destroy && is_new {
            self.line(format!("Triggered global unit {unit} {}", self.verb.as_str()))?;
        }
        if !result.global {
            self.sent.push(unit.clone());
        }
        if wait.no_block {
            if (!result.global || self.verb == Verb::Destroy) && is_new {
                self.line(format!("Triggered unit {unit} {}", self.verb.as_str()))?;
            }
            self.tell(result, "requested", Exit::DONE, None, None);
            return Ok(None);
        }
        if self.verb == Verb::Destroy && result.uid.is_empty() {
            // A repetition: that life of the name is over, and one that began since is not to be waited for.
            self.line(format!("Destroyed {unit}"))?;
            self.tell(result, "done", Exit::DONE, None, None);
            return Ok(None);
        }
        let uid = (!result.uid.is_empty()).then(|| result.uid.clone());
        Ok(Some(WaitUnit { unit: unit.clone(), revision: Some(result.revision), uid }))
    }

    fn settled(&mut self, one: &Prepared, result: &ActionResult, outcome: &Outcome) -> anyhow::Result<()> {
        let word = match outcome {
            Outcome::Done(_) => "done",
            Outcome::Failed(_) => "failed",
            Outcome::Unplaceable(_) => "unplaceable",
            Outcome::Superseded(_) => "superseded",
            Outcome::Pending(_) => "pending",
            Outcome::NoLeader | Outcome::NoRegistry | Outcome::Unreachable(_) => "no-answer",
        };
        let progress = outcome.progress().cloned();
        if let Some((text, exit)) = report::trouble(self.verb, &result.unit, outcome) {
            let prefix =
                if self.verb == Verb::Destroy { "Error destroying units" } else { "Error waiting for units" };
            self.trouble(&format!("{prefix}: {text}"));
            self.tell(result, word, exit, Some(text), progress);
            return Ok(());
        }
        if let Some(progress) = &progress {
            let is_shown = !result.global || self.verb == Verb::Destroy;
            if is_shown && !self.is_as_before(one) {
                self.line(report::done_line(self.verb, progress))?;
            }
            if let Some(note) = report::skipped_note(progress) {
                output::note(note);
            }
            if let Some(note) = report::absent_note(progress) {
                output::note(note);
            }
        }
        // One that was loaded has been started, which was said before.
        let was_loaded = one.before.as_ref().is_some_and(|before| before.desired == "loaded");
        if self.verb == Verb::Restart && !was_loaded && !self.options.json {
            output::log!("INFO", "Unit({}) was restarted.", result.unit);
        }
        self.tell(result, word, Exit::DONE, None, progress);
        Ok(())
    }

    /// A repeated `load` or `start` says nothing when there was nothing to do, as in fleet 1.0.
    fn is_as_before(&self, one: &Prepared) -> bool {
        matches!(self.verb, Verb::Load | Verb::Start)
            && one.action.text.is_none()
            && one.before.as_ref().is_some_and(|before| {
                before.desired == report::state_after(self.verb)
                    && before.states.iter().all(|state| state.active != "failed")
            })
    }

    fn line(&self, text: String) -> anyhow::Result<()> {
        if !self.options.json {
            output::line(text)?;
        }
        Ok(())
    }

    fn trouble(&mut self, text: &str) {
        output::note(text);
        if self.first_trouble.is_none() {
            let reason = text.split_once(": ").map_or(text, |(_, reason)| reason);
            self.first_trouble = reason.lines().next().map(str::to_owned);
        }
    }

    fn tell(
        &mut self,
        result: &ActionResult,
        outcome: &'static str,
        exit: Exit,
        message: Option<String>,
        progress: Option<Progress>,
    ) {
        self.exit = self.exit.max(exit);
        if self.options.json {
            let result = result.clone();
            self.told.push(Told { result, outcome, exit_code: exit.code(), message, progress });
        }
    }

    fn finish(self) -> anyhow::Result<Exit> {
        let (done, failed) = match self.verb {
            Verb::Stop if !self.options.json => ("stopped", "stop"),
            Verb::Unload if !self.options.json => ("unloaded", "unload"),
            _ => return self.print(),
        };
        let units = self.sent.join(" ");
        match &self.first_trouble {
            None => output::note(format!("Successfully {done} units [{units}].")),
            Some(trouble) => output::note(format!("Failed to {failed} units [{units}]. err: {trouble}")),
        }
        Ok(self.exit)
    }

    /// The document, where programs read; lines were printed as they came.
    fn print(self) -> anyhow::Result<Exit> {
        if self.options.json {
            json::print(&serde_json::json!({ "results": self.told }))?;
        }
        Ok(self.exit)
    }
}
