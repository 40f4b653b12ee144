//! A stand-in for the API of fleet 1.0, written from its specification and not from our server: pages with tokens,
//! empty values left out, one line of JSON. It only tells; what its machines run is put there by `left`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

/// Small, so that a few units make several pages.
const LIMIT: usize = 3;

/// A unit as its store has it.
#[derive(Clone, Debug, Default)]
pub struct OldUnit {
    pub text: String,
    pub desired: &'static str,
    /// Empty: nowhere, or global.
    pub machine: String,
}

/// What systemd says of a unit on a machine.
#[derive(Clone, Debug)]
pub struct OldState {
    pub unit: String,
    pub machine: String,
    pub hash: String,
    pub load: String,
    pub active: String,
    pub sub: String,
}

#[derive(Debug, Default)]
pub struct Told {
    pub units: BTreeMap<String, OldUnit>,
    pub states: Vec<OldState>,
    /// Metadata by id, and the address.
    pub machines: BTreeMap<String, (BTreeMap<String, String>, String)>,
    /// Its etcd is away: every answer is 503.
    pub is_cut_off: bool,
    /// Paths that were asked for.
    pub asked: Vec<String>,
}

/// Answers until the test ends; the thread ends with the process.
pub struct OldFleet {
    socket: PathBuf,
    told: Arc<Mutex<Told>>,
}

impl OldFleet {
    pub fn start(socket: &Path, told: Told) -> OldFleet {
        let listener = UnixListener::bind(socket).expect("the lab's directory takes a socket");
        let told = Arc::new(Mutex::new(told));
        let shared = Arc::clone(&told);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let told = Arc::clone(&shared);
                // A client that goes away ends its own conversation alone.
                std::thread::spawn(move || drop(converse(stream, &told)));
            }
        });
        OldFleet { socket: socket.to_owned(), told }
    }

    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn converse(stream: UnixStream, told: &Mutex<Told>) -> std::io::Result<()> {
    let mut answers = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(request) = lines.next() {
        let request = request?;
        // None of the requests has a body.
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        let target = request.split(' ').nth(1).unwrap_or_default();
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        told.asked.push(target.to_owned());
        let (status, body) = if request.starts_with("GET ") { answer(&told, target) } else { error(405, "") };
        drop(told);
        write!(
            answers,
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nServer: fleetd/1.0.0\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
    Ok(())
}

fn error(code: u16, message: &str) -> (u16, String) {
    (code, json!({ "error": { "code": code, "message": message } }).to_string())
}

fn answer(told: &Told, target: &str) -> (u16, String) {
    if told.is_cut_off {
        return error(503, "fleet server unable to communicate with etcd");
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (key, all): (&str, Vec<Value>) = match path {
        "/fleet/v1/units" => ("units", told.units.iter().map(unit).collect()),
        "/fleet/v1/state" => ("states", told.states.iter().map(state).collect()),
        "/fleet/v1/machines" => ("machines", told.machines.iter().map(machine).collect()),
        _ => return error(404, ""),
    };
    let token = query.split('&').find_map(|pair| pair.strip_prefix("nextPageToken="));
    let page = match token.map(|token| token.replace("%3D", "=")) {
        None => 1,
        Some(token) => match (1..=all.len() + 1).find(|page| token_of(*page) == token) {
            Some(page) => page,
            None => return error(400, "unexpected EOF"),
        },
    };
    let start = ((page - 1) * LIMIT).min(all.len());
    let items = &all[start..(start + LIMIT).min(all.len())];
    let mut body = Map::new();
    if !items.is_empty() {
        body.insert(key.to_owned(), Value::from(items.to_vec()));
    }
    // A full page has a token, so that an exact multiple ends in an empty page.
    if items.len() == LIMIT {
        body.insert("nextPageToken".to_owned(), Value::from(token_of(page + 1)));
    }
    (200, Value::from(body).to_string())
}

/// Limit and page, 16 bits each, little-endian, in URL-safe base64.
fn token_of(page: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let byte = |number: usize, place: u32| u32::try_from((number >> place) & 255).expect("it is a byte");
    let digit = |bits: u32| char::from(DIGITS[usize::try_from(bits & 63).expect("six bits")]);
    let three = byte(LIMIT, 0) << 16 | byte(LIMIT, 8) << 8 | byte(page, 0);
    let last = byte(page, 8) << 4;
    let mut token: String = [18, 12, 6, 0].iter().map(|shift| digit(three >> shift)).collect();
    token.extend([digit(last >> 6), digit(last)]);
    token.push_str("==");
    token
}

/// An object without its empty values.
fn object<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    let is_empty = |value: &Value| match value {
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    let kept = pairs.into_iter().filter(|(_, value)| !is_empty(value));
    Value::from(kept.map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
}

fn unit((name, unit): (&String, &OldUnit)) -> Value {
    let current = if unit.machine.is_empty() { "inactive" } else { unit.desired };
    object([
        ("currentState", current.into()),
        ("desiredState", unit.desired.into()),
        ("machineID", unit.machine.clone().into()),
        ("name", name.clone().into()),
        ("options", options(&unit.text)),
    ])
}

/// As written in the tests: a section, then `Name=Value` on one line each.
fn options(text: &str) -> Value {
    let mut section = "";
    let mut options = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((name, value)) = line.split_once('=') {
            options.push(object([
                ("name", name.into()),
                ("section", section.into()),
                ("value", value.into()),
            ]));
        }
    }
    options.into()
}

fn state(state: &OldState) -> Value {
    object([
        ("hash", state.hash.clone().into()),
        ("machineID", state.machine.clone().into()),
        ("name", state.unit.clone().into()),
        ("systemdActiveState", state.active.clone().into()),
        ("systemdLoadState", state.load.clone().into()),
        ("systemdSubState", state.sub.clone().into()),
    ])
}

fn machine((id, (metadata, ip)): (&String, &(BTreeMap<String, String>, String))) -> Value {
    object([("id", id.clone().into()), ("metadata", json!(metadata)), ("primaryIP", ip.clone().into())])
}

#[test]
fn the_stand_in_makes_the_tokens_of_the_specification() {
    // Limit 3 in place of 100: the specification's ZAACAA== is limit 100, page 2.
    assert_eq!(token_of(2), "AwACAA==");
}
