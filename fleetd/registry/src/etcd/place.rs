//! Where a member is: its URL taken apart, and the addresses behind its name.
//!
//! Called when a connection is made. A name is looked up on a thread of its own, at most one at a time: the pool of the
//! runtime is small and writes files, and a name server that is silent holds a thread for half a minute.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Uri;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::store::StoreError;

/// After this the addresses of the last time are taken, if there are any; the lookup goes on for the next time.
const LOOKUP_PATIENCE: Duration = Duration::from_millis(150);

/// For one of several addresses to take a connection.
const KNOCK_PATIENCE: Duration = Duration::from_millis(100);

/// A member's URL taken apart. Also asked by who reads a configuration, so that what is taken there is taken here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
    pub is_tls: bool,
}

impl Endpoint {
    /// # Errors
    /// What is wrong with it. Never repeats the URL, in which a password may stand.
    pub fn parse(url: &str) -> Result<Endpoint, &'static str> {
        let is_tls = url.starts_with("https://");
        if !is_tls && !url.starts_with("http://") {
            return Err("it must begin with http:// or https://");
        }
        let uri: Uri = url.parse().map_err(|_| "it is no URL")?;
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("user and password belong in keys of their own");
        }
        // The parser drops a fragment without a word.
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || url.contains('#') {
            return Err("nothing may follow the host and its port");
        }
        let bracketed = authority.host();
        let host = match bracketed.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) if host.parse::<Ipv6Addr>().is_err() => {
                return Err("in brackets there is no IPv6 address");
            }
            Some(host) => host,
            None => bracketed,
        };
        if host.is_empty() {
            return Err("it names no host");
        }
        let port = match authority.as_str().strip_prefix(bracketed).unwrap_or_default() {
            "" if is_tls => 443,
            "" => 80,
            port => {
                let digits =
                    port.strip_prefix(':').filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
                let port = digits.and_then(|digits| digits.parse().ok()).filter(|port| *port != 0);
                port.ok_or("its port is no number from 1 to 65535")?
            }
        };
        Ok(Endpoint { host: host.to_owned(), port, is_tls })
    }
}

pub(super) struct Place {
    url: String,
    host: String,
    port: u16,
    is_tls: bool,
    /// `None`: the host is an address.
    names: Option<Names>,
}

struct Names {
    last: Arc<Mutex<Vec<SocketAddr>>>,
    looking: Mutex<Option<watch::Receiver<Option<Lookup>>>>,
    /// Counts connections, so that each takes the next address.
    turn: AtomicUsize,
}

type Lookup = Result<Vec<SocketAddr>, String>;

impl Place {
    /// # Errors
    /// `Endpoint`, for what cannot be meant.
    pub fn parse(url: &str, has_tls: bool) -> Result<Self, StoreError> {
        let refuse =
            |detail: &str| StoreError::Endpoint { endpoint: url.to_owned(), detail: detail.to_owned() };
        let Endpoint { host, port, is_tls } = Endpoint::parse(url).map_err(refuse)?;
        if has_tls && !is_tls {
            return Err(refuse("certificates are configured, so it must begin with https://"));
        }
        let names = host.parse::<IpAddr>().is_err().then(|| Names {
            last: Arc::default(),
            looking: Mutex::default(),
            turn: AtomicUsize::new(0),
        });
        Ok(Self { url: url.to_owned(), host, port, is_tls, names })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the certificate of the member has to name.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The URL with an address in place of the name; another one each time, if the name has several.
    ///
    /// # Errors
    /// Why the name has no address.
    pub async fn next_url(&self) -> Result<String, String> {
        let scheme = if self.is_tls { "https" } else { "http" };
        self.next_address().await.map(|address| format!("{scheme}://{address}"))
    }

    /// # Errors
    /// Why the name has no address.
    pub async fn next_address(&self) -> Result<SocketAddr, String> {
        let Some(names) = &self.names else {
            let ip: IpAddr = self.host.parse().expect("it was parsed before");
            return Ok(SocketAddr::new(ip, self.port));
        };
        let mut addresses = names.addresses(&self.host, self.port).await?;
        let turn = names.turn.fetch_add(1, Ordering::Relaxed);
        let count = addresses.len();
        let Some(last) = count.checked_sub(1) else {
            return Err(format!("the name {} has no address", self.host));
        };
        addresses.rotate_left(turn % count);
        // A name may have an address where nothing listens, of the other family for example.
        for address in &addresses[..last] {
            if matches!(timeout(KNOCK_PATIENCE, TcpStream::connect(address)).await, Ok(Ok(_))) {
                return Ok(*address);
            }
        }
        Ok(addresses[last])
    }
}

impl Names {
    async fn addresses(&self, host: &str, port: u16) -> Lookup {
        let mut answer = self.look(host, port);
        let known = self.last.lock().expect("nobody panics while holding it").clone();
        let looked = async {
            // The thread ends with an answer, so the channel closes after one.
            answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone())
        };
        let lost = || Err(format!("the lookup of {host} ended without an answer"));
        if known.is_empty() {
            return looked.await.unwrap_or_else(lost);
        }
        match timeout(LOOKUP_PATIENCE, looked).await {
            Ok(Some(Ok(addresses))) => Ok(addresses),
            // Name servers that are down take no member away.
            Ok(_) | Err(_) => Ok(known),
        }
    }

    /// Begins a lookup, unless one is under way.
    fn look(&self, host: &str, port: u16) -> watch::Receiver<Option<Lookup>> {
        let mut looking = self.looking.lock().expect("nobody panics while holding it");
        if let Some(answer) = &*looking
            && answer.borrow().is_none()
            && answer.has_changed().is_ok()
        {
            return answer.clone();
        }
        let (sender, answer) = watch::channel(None);
        let (name, last) = (host.to_owned(), Arc::clone(&self.last));
        let lookup = move || {
            let found = (name.as_str(), port).to_socket_addrs();
            let found = found.map(Iterator::collect::<Vec<_>>);
            let found = found.map_err(|error| format!("the name {name} cannot be looked up: {error}"));
            if let Ok(addresses) = &found {
                last.lock().expect("nobody panics while holding it").clone_from(addresses);
            }
            sender.send_replace(Some(found));
        };
        let started = std::thread::Builder::new().name("lookup".to_owned()).spawn(lookup);
        if let Err(error) = started {
            // The sender went with the closure: whoever waits gets "ended without an answer".
            tracing::warn!(host, %error, "no thread for the lookup of a name");
        }
        *looking = Some(answer.clone());
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_without_scheme_is_refused_with_the_reason() {
        let error = Place::parse("10.0.0.1:2379", false).err().unwrap();
        assert!(error.to_string().contains("http://"), "{error}");
    }

    #[test]
    fn plain_endpoint_beside_certificates_is_refused() {
        assert!(Place::parse("http://10.0.0.1:2379", true).is_err());
        assert!(Place::parse("https://10.0.0.1:2379", true).is_ok());
        assert!(Place::parse("https://:2379", true).is_err());
    }

    #[test]
    fn url_that_cannot_be_meant_is_refused_instead_of_guessed_at() {
        let parsed = |url| Endpoint::parse(url).map(|endpoint| (endpoint.host, endpoint.port));
        for (url, host, port) in [
            ("http://a:2379", "a", 2379),
            ("https://a:2379/", "a", 2379),
            ("http://[fd00::1]:1", "fd00::1", 1),
            ("http://[fd00::1]", "fd00::1", 80),
            ("https://10.0.0.1", "10.0.0.1", 443),
        ] {
            assert_eq!(parsed(url), Ok((host.to_owned(), port)), "{url}");
        }
        for (url, why) in [
            ("a:2379", "must begin"),
            ("http://", "no URL"),
            ("http://:2379", "no host"),
            ("http://a:", "port"),
            ("http://a:0", "port"),
            ("http://a:99999", "port"),
            ("http://a:2379x", "port"),
            ("http://a:+1", "port"),
            ("http://[fd00::1]x", "port"),
            ("http://[a]:1", "brackets"),
            ("http://fd00::1:2379", "no URL"),
            ("http://me:secret@a:1", "keys of their own"),
            ("http://a:1/v3", "may follow"),
            ("http://a:1/?x", "may follow"),
            ("http://a:1#x", "may follow"),
            ("http://a b:1", "no URL"),
        ] {
            let found = parsed(url).unwrap_err();
            assert!(found.contains(why), "{url}: {found}");
        }
    }

    #[tokio::test]
    async fn addresses_stay_and_names_are_looked_up_for_every_connection() {
        let url = |text| Place::parse(text, false).unwrap();
        assert_eq!(url("http://10.0.0.1:2379").next_url().await.unwrap(), "http://10.0.0.1:2379");
        assert_eq!(url("http://[fd00::1]:2379/").next_url().await.unwrap(), "http://[fd00::1]:2379");
        let local = url("http://localhost:2379").next_address().await.unwrap();
        assert!(local.ip().is_loopback() && local.port() == 2379, "{local}");
    }

    #[tokio::test]
    async fn name_that_is_gone_keeps_its_last_addresses_and_new_ones_take_turns() {
        let place = Place::parse("http://no-such-name.invalid:2379", false).unwrap();
        let error = place.next_url().await.unwrap_err();
        assert!(error.contains("no-such-name.invalid"), "{error}");
        let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let mut known = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        known.sort_unstable();
        let last = &place.names.as_ref().unwrap().last;
        *last.lock().unwrap() = known.to_vec();
        let mut seen = [place.next_address().await.unwrap(), place.next_address().await.unwrap()];
        seen.sort_unstable();
        assert_eq!(seen, known);
        // Nothing listens at one of them.
        let closed = listeners.map(|listener| listener.local_addr().unwrap())[0];
        let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open_at = open.local_addr().unwrap();
        *last.lock().unwrap() = vec![closed, open_at];
        for _ in 0..2 {
            assert_eq!(place.next_address().await.unwrap(), open_at);
        }
    }
}
