//! Who may ask over TCP: programs on this machine, and no web page that a browser on it shows.
//!
//! A loopback address is no guard against a browser: a page's name can be made to lead to 127.0.0.1, and then the page
//! may read the answers. Such a request still says the page's name in `Host`, or its origin. Used by `server` for TCP
//! listeners without client certificates only: whoever may open a unix socket is no page, and a page whose name leads
//! elsewhere than it says fails at the certificate. It looks at headers and nothing else.

use axum::extract::Request;
use axum::http::uri::{Authority, Scheme, Uri};
use axum::http::{HeaderMap, StatusCode, header};

use super::Failure;

/// # Errors
/// 403: the request names another host, or comes from a page of another origin. `scheme` is that of the listener, `own`
/// this machine's name.
pub(super) fn judge<B>(request: &Request<B>, scheme: &Scheme, own: &str) -> Result<(), Failure> {
    let forbidden = |message: String| {
        Err(Failure::new(StatusCode::FORBIDDEN, message).with_remedy(format!(
            "use {scheme}://127.0.0.1, {scheme}://localhost or {scheme}://{own} with the port that fleetd listens on, or \
             its unix socket; web pages of others are not answered"
        )))
    };
    let hosts: Vec<&str> = texts(request.headers(), header::HOST).collect();
    if let Some(other) = hosts.iter().find(|host| !is_here(host, own)) {
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

/// An address cannot be made to lead elsewhere; these two names are this machine's own.
fn is_here(host: &str, own: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<std::net::IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.eq_ignore_ascii_case(own)
}

fn is_origin_of(origin: &str, scheme: &Scheme, host: &str) -> bool {
    let (Ok(origin), Ok(host)) = (origin.parse::<Uri>(), host.parse::<Authority>()) else { return false };
    let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let port = |authority: &Authority| authority.port_u16().unwrap_or(usual);
    origin.scheme() == Some(scheme)
        && origin.authority().is_some_and(|authority| {
            authority.host().eq_ignore_ascii_case(host.host()) && port(authority) == port(&host)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_answered(headers: &[(&str, &str)]) -> bool {
        is_answered_over(&Scheme::HTTP, headers)
    }

    fn is_answered_over(scheme: &Scheme, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        judge(&request.body(()).unwrap(), scheme, "node1").is_ok()
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
        ] {
            assert!(is_answered(&[("host", host)]), "{host}");
        }
        for host in [
            "",
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
    fn a_page_is_answered_if_it_was_served_from_here() {
        for (host, origin, is_own) in [
            ("localhost:49153", "http://localhost:49153", true),
            ("localhost", "http://LOCALHOST:80", true),
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
