//! API v2 as an OpenAPI 3.1 document, made from the wire types and the list of operations below.
//!
//! Called by a test alone, which compares it with the document that the repository holds and fleetd serves. Nothing is
//! described twice: what the fields mean is what their comments say.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::{ErrorBody, paths, v2};

/// How a type is referred to, and added to the document.
type Of = fn(&mut SchemaGenerator) -> Schema;

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// What an operation answers when all goes well.
enum Answer {
    Document(Of),
    /// One JSON document a line.
    Lines(Option<Of>),
    /// Server-sent events, by their names.
    Events(&'static [(&'static str, Of)]),
    Text,
    /// This document.
    OpenApi,
}

struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    /// Name, JSON type, meaning.
    query: &'static [(&'static str, &'static str, &'static str)],
    request: Option<Of>,
    answer: Answer,
}

impl Operation {
    const fn get(path: &'static str, id: &'static str, summary: &'static str, answer: Answer) -> Operation {
        Operation { method: "get", path, id, summary, query: &[], request: None, answer }
    }

    const fn post(
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        request: Of,
        answer: Answer,
    ) -> Operation {
        Operation { method: "post", path, id, summary, query: &[], request: Some(request), answer }
    }

    const fn with_query(self, query: &'static [(&'static str, &'static str, &'static str)]) -> Operation {
        Operation { query, ..self }
    }
}

const MACHINE: (&str, &str, &str) =
    ("machine", "string", "Of this machine: its id, or the first eight characters.");

fn operations() -> Vec<Operation> {
    use Answer::{Document, Events, Lines, OpenApi, Text};
    vec![
        Operation::post(
            paths::REQUESTS,
            "change",
            "A batch of changes, each judged for itself.",
            of::<v2::ChangeRequest>,
            Document(of::<v2::ChangeReport>),
        ),
        Operation::post(
            paths::WAIT,
            "wait",
            "How far the cluster is with what was asked for, until every unit is over.",
            of::<v2::WaitRequest>,
            Lines(Some(of::<v2::WaitLine>)),
        ),
        Operation::get(paths::UNITS, "listUnits", "The stored units.", Document(of::<v2::UnitList>))
            .with_query(&[
                ("name", "array", "Only these units."),
                ("prefix", "string", "Only units whose names begin so."),
                ("text", "boolean", "With their texts."),
            ]),
        Operation::get(paths::UNIT, "getUnit", "One unit, with its text.", Document(of::<v2::UnitView>)),
        Operation::get(paths::UNIT_TEXT, "getUnitText", "The bytes as submitted.", Text),
        Operation::get(
            paths::UNIT_WHY,
            "explainUnit",
            "Why the unit is where it is, for every machine.",
            Document(of::<v2::Explanation>),
        )
        .with_query(&[MACHINE]),
        Operation::get(
            paths::UNIT_STATUS,
            "getUnitStatus",
            "What `systemctl status` prints on the unit's machine.",
            Document(of::<v2::StatusReport>),
        )
        .with_query(&[MACHINE]),
        Operation::get(
            paths::UNIT_JOURNAL,
            "readJournal",
            "The unit's journal, from its machine.",
            Lines(Some(of::<v2::JournalLine>)),
        )
        .with_query(&[
            ("lines", "string", "So many of the newest lines, or `all`; 10 by default."),
            ("follow", "boolean", "Goes on with what is added."),
            ("output", "string", "Format, in the words of `journalctl --output`."),
            MACHINE,
        ]),
        Operation::get(
            paths::STATES,
            "listStates",
            "What machines say of units.",
            Document(of::<v2::StateList>),
        )
        .with_query(&[("unit", "string", "Only of this unit."), MACHINE]),
        Operation::get(paths::MACHINES, "listMachines", "The machines.", Document(of::<v2::MachineList>)),
        Operation::post(
            paths::MACHINE_FORGET,
            "forgetMachine",
            "A machine that is away will not come back.",
            of::<v2::Requester>,
            Document(of::<v2::Done>),
        ),
        Operation::post(
            paths::MACHINE_CONFIRM_DEAD,
            "confirmMachineDead",
            "A machine that is away is off: its units move at once.",
            of::<v2::Requester>,
            Document(of::<v2::Done>),
        ),
        Operation::get(
            paths::WATCH,
            "watch",
            "The rows of the lists, and each row again when it changes. The event that ends what was told of one revision \
             carries it as its id; with it as `Last-Event-ID`, or as `since`, a client goes on from there. After `reset` \
             the whole list comes anew.",
            Events(&[
                ("unit", of::<v2::UnitView>),
                ("state", of::<v2::StateView>),
                ("machine", of::<v2::MachineView>),
                ("deleted", of::<v2::Deleted>),
                ("reset", of::<v2::Reset>),
                ("synced", of::<v2::Synced>),
                ("registry", of::<v2::RegistryAnswers>),
            ]),
        )
        .with_query(&[
            ("kind", "array", "`unit`, `state` or `machine`: only these lists; all by default."),
            ("since", "string", "The last id that was received; none, or `0`, for everything."),
        ]),
        Operation::get(paths::EVENTS, "listEvents", "Who ordered what, and why.", Document(of::<v2::EventList>))
            .with_query(&[
                ("limit", "integer", "At most so many, the newest; 100 by default."),
                ("since", "integer", "Only later ones than this, in Unix milliseconds."),
                ("unit", "string", "Only those that name this unit."),
            ]),
        Operation::get(paths::CLUSTER, "getCluster", "The cluster as a whole.", Document(of::<v2::ClusterView>)),
        Operation::get(
            paths::CLUSTER_HEALTH,
            "getHealth",
            "Whether the store and the machine that answers are well.",
            Document(of::<v2::HealthView>),
        ),
        Operation::post(
            paths::CLUSTER_ADOPT,
            "adoptCluster",
            "Confirms what is in a store that was rolled back.",
            of::<v2::AdoptRequest>,
            Document(of::<v2::AdoptReport>),
        ),
        Operation::get(paths::CLUSTER_EXPORT, "exportCluster", "The cluster as a document.", Lines(None)),
        Operation::post(
            paths::CLUSTER_IMPORT,
            "importCluster",
            "Makes a cluster from an exported document.",
            of::<v2::ImportRequest>,
            Document(of::<v2::ImportReport>),
        ),
        Operation::post(
            paths::MACHINE_JOIN,
            "joinCluster",
            "Moves the machine that answers to the configured store.",
            of::<v2::JoinRequest>,
            Document(of::<v2::JoinReport>),
        ),
        Operation::post(
            paths::CLUSTER_RESUME,
            "resumeCluster",
            "Releases the brake.",
            of::<v2::Requester>,
            Document(of::<v2::Done>),
        ),
        Operation::get(paths::OPENAPI, "getOpenApi", "This document.", OpenApi),
    ]
}

/// The document.
///
/// # Panics
/// Never with these types: one that is sent both ways reads the same in both.
#[must_use]
pub fn openapi() -> Value {
    let settings = |settings: SchemaSettings| {
        let settings = settings.with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        settings.into_generator()
    };
    // What a server always sends is required of its answers, and of no request.
    let mut requests = settings(SchemaSettings::draft2020_12().for_deserialize());
    let mut answers = settings(SchemaSettings::draft2020_12().for_serialize());
    let mut paths = Map::new();
    for operation in operations() {
        let described = describe(&operation, &mut requests, &mut answers);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described;
    }
    let mut schemas = answers.take_definitions(true);
    for (name, schema) in requests.take_definitions(true) {
        let known = schemas.entry(name).or_insert_with(|| schema.clone());
        assert_eq!(*known, schema, "a type is sent both ways and reads differently");
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "fleet",
            "version": "2",
            "description": "Units, states and machines of a cluster, and changes to them. Any machine answers. Unknown \
                            fields are to be ignored; times are Unix milliseconds."
        },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn describe(operation: &Operation, requests: &mut SchemaGenerator, answers: &mut SchemaGenerator) -> Value {
    let segments = operation.path.split('/');
    let in_path = segments.filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = in_path
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(operation.query.iter().map(|(name, kind, meaning)| {
        let schema = match *kind {
            "array" => json!({ "type": "array", "items": { "type": "string" } }),
            kind => json!({ "type": kind }),
        };
        json!({ "name": name, "in": "query", "description": meaning, "schema": schema })
    }));
    if matches!(operation.answer, Answer::Events(_)) {
        parameters.push(json!({
            "name": "Last-Event-ID", "in": "header", "schema": { "type": "string" },
            "description": "The last id that was received; goes before `since`.",
        }));
    }
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": {
            "200": { "description": "It was done.", "content": content(&operation.answer, answers) },
            "default": {
                "description": "It was not.",
                "content": { "application/json": { "schema": answers.subschema_for::<ErrorBody>() } },
            },
        },
    });
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(request) = operation.request {
        let schema = request(requests);
        described["requestBody"] = json!({ "content": { "application/json": { "schema": schema } } });
    }
    described
}

/// A stream's media type cannot say what its parts are; `x-lines` and `x-events` do.
fn content(answer: &Answer, answers: &mut SchemaGenerator) -> Value {
    let text = || json!({ "type": "string" });
    match answer {
        Answer::Document(of) => json!({ "application/json": { "schema": of(answers) } }),
        Answer::Lines(None) => json!({ "application/x-ndjson": { "schema": text() } }),
        Answer::Lines(Some(of)) => {
            json!({ "application/x-ndjson": { "schema": text(), "x-lines": of(answers) } })
        }
        Answer::Events(events) => {
            let events: Map<String, Value> =
                events.iter().map(|(name, of)| ((*name).to_owned(), of(answers).to_value())).collect();
            json!({ "text/event-stream": { "schema": text(), "x-events": events } })
        }
        Answer::Text => json!({ "text/plain": { "schema": text() } }),
        Answer::OpenApi => json!({ "application/json": { "schema": { "type": "object" } } }),
    }
}
