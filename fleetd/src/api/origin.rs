//! Who may ask over TCP: programs on this machine, and no web page that a browser on it shows.
//!
//! A loopback address is no guard against a browser: a page's name can be made to lead to 127.0.0.1, and then the page
//! may read the answers. Such a request still says the page's name in `Host`, or its origin. Used by `server` for TCP
//! listeners without client certificates only: whoever may open a unix socket is no page, and a page whose name leads
//! elsewhere than it says fails at the certificate. It looks at headers, and once at `/etc/hosts` for this machine's full
//! name; it asks no name server, whose answers are what it guards against.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::uri::{Authority, Scheme, Uri};
use axum::http::{HeaderMap, StatusCode, header};

use super::Failure;

/// Between two log lines about refusals.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Refuses what names another host than this machine, or comes from a page of another origin, and logs that at most
/// once a minute. `scheme` is that of the listener, `own` this machine's host name, short or full.
///
/// # Errors
/// 403.
pub(super) fn judge<B>(request: &Request<B>, scheme: &Scheme, own: &str) -> Result<(), Failure> {
    static HOSTS: OnceLock<String> = OnceLock::new();
    static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
    // Without the file the full name is not known.
    let hosts = HOSTS.get_or_init(|| std::fs::read_to_string("/etc/hosts").unwrap_or_default());
    judge_as(request, scheme, &names(own, hosts)).inspect_err(|failure| {
        if is_to_tell(&mut TOLD.lock().unwrap_or_else(PoisonError::into_inner), Instant::now()) {
            tracing::warn!(%failure, "a request was refused; others may be, without a word for a minute");
        }
    })
}

fn is_to_tell(told: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = told.is_none_or(|told| now.saturating_duration_since(told) >= TELL_EVERY);
    if is_due {
        *told = Some(now);
    }
    is_due
}

/// This machine's own name, and as far as the text of `hosts(5)` says it the full one, which starts with the same label.
/// The short one if the own one is full. Never empty ones: those would be equal to a missing name.
fn names<'a>(own: &'a str, hosts: &'a str) -> Vec<&'a str> {
    let own = undotted(own);
    let short = own.split('.').next().unwrap_or_default();
    let is_full = |name: &&str| {
        let rest = name.get(..short.len()).filter(|start| start.eq_ignore_ascii_case(short));
        rest.is_some() && name.get(short.len()..).is_some_and(|rest| rest.starts_with('.'))
    };
    let named = |line: &'a str| {
        let names = line.split('#').next().unwrap_or_default().split_whitespace().skip(1).map(undotted);
        let is_own = names.clone().any(|name| name.eq_ignore_ascii_case(own));
        names.filter(move |name| is_own && is_full(name))
    };
    let known = [own, short].into_iter().chain(hosts.lines().flat_map(named));
    known.filter(|name| !short.is_empty() && !name.is_empty()).collect()
}

/// A dot at the end says that a name is complete; with and without it is the same host.
fn undotted(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

fn judge_as<B>(request: &Request<B>, scheme: &Scheme, names: &[&str]) -> Result<(), Failure> {
    let forbidden = |message: String| {
        let own = names.first().copied().unwrap_or("[::1]");
        Err(Failure::new(StatusCode::FORBIDDEN, message).with_remedy(format!(
            "use {scheme}://127.0.0.1, {scheme}://localhost or {scheme}://{own} with the port that fleetd listens on, or \
             its unix socket; web pages of others are not answered"
        )))
    };
    let hosts: Vec<&str> = texts(request.headers(), header::HOST).collect();
    if let Some(other) = hosts.iter().find(|host| !is_here(host, names)) {
        return forbidden(format!("{other:?} is no name of this machine"));
    }
    let is_own = |origin: &&str| hosts.iter().any(|host| is_origin_of(origin, scheme, host));
    if let Some(other) = texts(request.headers(), header::ORIGIN).find(|origin| !is_own(origin)) {
        return forbidden(format!("a web page of {other:?} asks"));
    }
    Ok(())
}

/// What is no text reads as an empty one, which nothing is equal to.
fn texts(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().map(|value| value.to_str().unwrap_or_default())
}

/// An address cannot be made to lead elsewhere; `localhost` and these names are this machine's own.
fn is_here(host: &str, names: &[&str]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = undotted(authority.host());
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<std::net::IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|own| name.eq_ignore_ascii_case(own))
}

fn is_origin_of(origin: &str, scheme: &Scheme, host: &str) -> bool {
    let (Ok(origin), Ok(host)) = (origin.parse::<Uri>(), host.parse::<Authority>()) else { return false };
    let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(usual);
    origin.scheme() == Some(scheme)
        && origin.authority().is_some_and(|authority| {
            undotted(authority.host()).eq_ignore_ascii_case(undotted(host.host()))
                && port(authority) == port(&host)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &str = "127.0.0.1 localhost node9.example.org # node1\n\
                         # 10.0.0.9 node1.example.net node1\n\
                         127.0.1.1\tNode1.Example.com. node1 alias node1x.example.com\n\
                         10.0.0.2 node2.example.com node2\n";

    fn is_answered(headers: &[(&str, &str)]) -> bool {
        is_answered_over(&Scheme::HTTP, headers)
    }

    fn is_answered_over(scheme: &Scheme, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        judge_as(&request.body(()).unwrap(), scheme, &names("node1", HOSTS)).is_ok()
    }

    #[test]
    fn addresses_localhost_and_the_own_name_are_this_machine() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:49153",
            "[::1]:49153",
            "10.1.2.3:80",
            "localhost",
            "LocalHost:1",
            "Node1:2",
            "node1.",
            "localhost.:49153",
            "127.0.0.1.",
            "node1.example.com:49153",
            "NODE1.example.com.",
        ] {
            assert!(is_answered(&[("host", host)]), "{host}");
        }
        for host in [
            "",
            ".",
            "node1..",
            "alias",
            "node1x.example.com",
            "node1.example.net",
            "node2.example.com",
            "node9.example.org",
            "example.org",
            "localhost.example.org",
            "node1.example.org:49153",
            "127.0.0.1.example.org",
            "[::1",
            "a b",
        ] {
            assert!(!is_answered(&[("host", host)]), "{host}");
        }
        assert!(!is_answered(&[("host", "localhost"), ("host", "example.org")]));
        // Only browsers are kept out, and they always send it.
        assert!(is_answered(&[]));
    }

    #[test]
    fn the_own_name_may_be_full_or_short_and_unknown_ones_name_nothing() {
        assert_eq!(names("node1", HOSTS), ["node1", "node1", "Node1.Example.com"]);
        assert_eq!(names("node3.example.com.", HOSTS), ["node3.example.com", "node3"]);
        assert_eq!(names("node3", HOSTS), ["node3", "node3"]);
        // Whoever is called like the first label of another has not that one's names.
        assert_eq!(names("localhost.localdomain", HOSTS), ["localhost.localdomain", "localhost"]);
        for own in ["", ".", ".example.com"] {
            assert!(names(own, HOSTS).is_empty(), "{own:?}");
        }
    }

    #[test]
    fn refusals_are_told_at_once_and_then_once_a_minute() {
        let (mut told, start) = (None, Instant::now());
        assert!(is_to_tell(&mut told, start));
        assert!((0..60).all(|second| !is_to_tell(&mut told, start + Duration::from_secs(second))));
        assert!(is_to_tell(&mut told, start + Duration::from_secs(60)));
    }

    #[test]
    fn a_page_is_answered_if_it_was_served_from_here() {
        for (host, origin, is_own) in [
            ("localhost:49153", "http://localhost:49153", true),
            ("localhost", "http://LOCALHOST:80", true),
            ("node1.example.com.", "http://node1.example.com", true),
            ("node1", "http://node1.example.com", false),
            ("localhost:49153", "http://localhost", false),
            ("localhost:49153", "http://127.0.0.1:49153", false),
            ("localhost:443", "https://localhost", false),
            ("localhost", "https://localhost", false),
            ("localhost", "null", false),
            ("localhost", "", false),
        ] {
            assert_eq!(is_answered(&[("host", host), ("origin", origin)]), is_own, "{host} {origin}");
        }
        assert!(!is_answered(&[("origin", "http://localhost")]));
        for (origin, is_own) in
            [("https://localhost", true), ("https://localhost:443", true), ("http://localhost", false)]
        {
            let headers = [("host", "localhost"), ("origin", origin)];
            assert_eq!(is_answered_over(&Scheme::HTTPS, &headers), is_own, "{origin}");
        }
    }
}
