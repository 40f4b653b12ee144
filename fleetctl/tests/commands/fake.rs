//! A server with canned answers on a unix socket, and the program run against it. Used by the tests of this directory.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::process::Command;

/// More than any command here may take; a hang fails instead of blocking the suite.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the server says.
#[derive(Clone, Debug)]
pub enum Answer {
    Json(u16, Value),
    Text(&'static str),
    /// Lines, then the end.
    Lines(Vec<Value>),
    /// Lines, then silence on an open connection.
    LinesThenSilence(Vec<Value>),
    /// Lines, then a connection that breaks.
    LinesThenBreak(Vec<Value>),
    /// Text, then silence on an open connection.
    TextThenSilence(String),
    /// Text, then a connection that breaks.
    TextThenBreak(String),
    /// Nothing at all, on an open connection.
    Silence,
}

impl Answer {
    pub fn ok(value: Value) -> Answer {
        Answer::Json(200, value)
    }

    pub fn error(status: u16, message: &str) -> Answer {
        Answer::Json(status, serde_json::json!({ "error": { "code": status, "message": message } }))
    }

    fn response(self) -> Response<BoxBody<Bytes, io::Error>> {
        let text = |lines: &[Value]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let full = |text: String| Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
        let open = |lines: &[Value], is_breaking| {
            OpenEnd { text: Some(text(lines)), is_breaking, is_sent: false }.boxed()
        };
        let (status, body) = match self {
            Answer::Json(status, value) => (status, full(value.to_string())),
            Answer::Text(text) => (200, full(text.to_owned())),
            Answer::Lines(lines) => (200, full(text(&lines))),
            Answer::LinesThenSilence(lines) => (200, open(&lines, false)),
            Answer::LinesThenBreak(lines) => (200, open(&lines, true)),
            Answer::TextThenSilence(text) => {
                (200, OpenEnd { text: Some(text), is_breaking: false, is_sent: false }.boxed())
            }
            Answer::TextThenBreak(text) => {
                (200, OpenEnd { text: Some(text), is_breaking: true, is_sent: false }.boxed())
            }
            Answer::Silence => unreachable!("silence is no response"),
        };
        Response::builder().status(status).body(body).expect("a canned answer is well-formed")
    }
}

/// A body that never ends, or breaks.
struct OpenEnd {
    text: Option<String>,
    is_breaking: bool,
    is_sent: bool,
}

impl Body for OpenEnd {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(text) = self.text.take() {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from(text)))));
        }
        if !self.is_breaking {
            return Poll::Pending;
        }
        // The server sends what it has when there is nothing more at the moment.
        if !std::mem::replace(&mut self.is_sent, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::ConnectionReset))))
    }
}

#[derive(Clone, Debug)]
pub struct Seen {
    /// `POST /fleet/v2/requests`, without the query.
    pub what: String,
    pub query: String,
    pub body: Value,
}

#[derive(Debug, Default)]
struct Script {
    answers: HashMap<String, VecDeque<Answer>>,
    seen: Vec<Seen>,
}

/// A server that answers each request with the next answer of its path; the last one stays.
#[derive(Debug)]
pub struct Fake {
    script: Arc<Mutex<Script>>,
    pub dir: tempfile::TempDir,
}

impl Fake {
    pub fn new() -> Fake {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let listener = UnixListener::bind(dir.path().join("fleet.sock")).expect("a socket");
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = Arc::clone(&script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&script), request));
                let serving = hyper::server::conn::http1::Builder::new()
                    .half_close(true)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
        Fake { script, dir }
    }

    pub fn on(self, what: &str, answer: Answer) -> Fake {
        let mut script = self.script.lock().expect("no test panics while it holds the script");
        script.answers.entry(what.to_owned()).or_default().push_back(answer);
        drop(script);
        self
    }

    pub fn seen(&self, what: &str) -> Vec<Seen> {
        let script = self.script.lock().expect("no test panics while it holds the script");
        script.seen.iter().filter(|seen| seen.what == what).cloned().collect()
    }

    /// The program with these arguments, in the server's directory and with an environment of its own.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let dir = self.dir.path();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fleetctl"));
        command
            .args(arguments)
            .current_dir(dir)
            .env_clear()
            .env("FLEETCTL_ENDPOINT", format!("unix://{}", dir.join("fleet.sock").display()))
            .kill_on_drop(true);
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Output {
        finish(self.command(arguments)).await
    }

    /// Until the first such request has come.
    pub async fn until_seen(&self, what: &str) {
        let coming = async {
            while self.seen(what).is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, coming).await.expect("the request comes");
    }

    pub fn file(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).expect("a file in the temporary directory");
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Output {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).expect("the output is JSON")
    }
}

pub async fn finish(mut command: Command) -> Output {
    let output =
        tokio::time::timeout(DEADLINE, command.output()).await.expect("the command ends").expect("it runs");
    Output {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

async fn answer(
    script: Arc<Mutex<Script>>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, io::Error>>, hyper::Error> {
    let what = format!("{} {}", request.method(), request.uri().path());
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let answer = {
        let mut script = script.lock().expect("no test panics while it holds the script");
        let answers = script.answers.entry(what.clone()).or_default();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        let answer = answer.unwrap_or_else(|| Answer::error(404, &format!("no answer for {what}")));
        script.seen.push(Seen { what, query, body });
        answer
    };
    if matches!(answer, Answer::Silence) {
        std::future::pending::<()>().await;
    }
    Ok(answer.response())
}
