//! Where a server is, as `--endpoint` says it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use tokio::net::{TcpStream, UnixStream};

use super::ByteStream;
use super::tls::{Tls, TlsOptions, server_name};

/// `unix:///run/fleet.sock`, `file:///run/fleet.sock`, `https://host:port/prefix` or `http://host:port/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix { path: PathBuf },
    Tcp { host: String, port: u16, prefix: String, is_tls: bool },
}

/// Why a text is no endpoint. The first three messages are those of fleet 1.0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("parse {0:?}: first path segment in URL cannot contain colon")]
    ColonInPath(String),
    #[error("URL scheme undefined")]
    NoScheme,
    /// As in `unix://var/run/fleet.sock`, which has one slash too few.
    #[error(
        "unable to connect to host {host:?} with scheme {scheme:?}; write {scheme}:///PATH with three slashes"
    )]
    HostWithoutNetwork { host: String, scheme: String },
    #[error("endpoint {0:?} names no socket; write unix:///run/fleet.sock")]
    NoPath(String),
    #[error("endpoint {0:?} names no host; write https://HOST:PORT")]
    NoHost(String),
    #[error("endpoint {endpoint:?}: {host:?} is neither a DNS name nor an address; write https://HOST:PORT")]
    BadHost { endpoint: String, host: String },
    #[error("endpoint {0:?}: the port is no number from 1 to 65535")]
    BadPort(String),
    #[error("endpoint {endpoint:?}: scheme {scheme:?} is not supported; use unix, file, http or https")]
    UnknownScheme { endpoint: String, scheme: String },
}

impl Endpoint {
    /// # Errors
    /// Anything that names no server this client can reach.
    pub fn parse(text: &str) -> Result<Endpoint, EndpointError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let first = text.split('/').next().unwrap_or_default();
            return Err(match first.split_once(':') {
                // `unix:/run/fleet.sock` is a URL too.
                Some(("unix" | "file", _)) => return Endpoint::socket(text, "unix", &text[5..]),
                Some((before, _))
                    if !before.is_empty() && before.bytes().all(|b| b.is_ascii_alphabetic()) =>
                {
                    EndpointError::UnknownScheme { endpoint: text.to_owned(), scheme: before.to_owned() }
                }
                Some(_) => EndpointError::ColonInPath(text.to_owned()),
                None => EndpointError::NoScheme,
            });
        };
        match scheme.to_ascii_lowercase().as_str() {
            "unix" | "file" => Endpoint::socket(text, scheme, rest),
            "http" => Endpoint::network(text, rest, false),
            "https" => Endpoint::network(text, rest, true),
            "" => Err(EndpointError::NoScheme),
            other => {
                Err(EndpointError::UnknownScheme { endpoint: text.to_owned(), scheme: other.to_owned() })
            }
        }
    }

    fn socket(text: &str, scheme: &str, path: &str) -> Result<Endpoint, EndpointError> {
        if path.len() < 2 {
            return Err(EndpointError::NoPath(text.to_owned()));
        }
        if !path.starts_with('/') {
            let host = path.split('/').next().unwrap_or_default().to_owned();
            return Err(EndpointError::HostWithoutNetwork { host, scheme: scheme.to_owned() });
        }
        Ok(Endpoint::Unix { path: PathBuf::from(path) })
    }

    fn network(text: &str, rest: &str, is_tls: bool) -> Result<Endpoint, EndpointError> {
        let (authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // A colon inside brackets belongs to an IPv6 address.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(EndpointError::NoHost(text.to_owned()));
        }
        if is_tls && server_name(host).is_none() {
            return Err(EndpointError::BadHost { endpoint: text.to_owned(), host: host.to_owned() });
        }
        let port = match port {
            None if is_tls => 443,
            None => 80,
            Some(port) => {
                let port: u16 = port.parse().map_err(|_| EndpointError::BadPort(text.to_owned()))?;
                if port == 0 {
                    return Err(EndpointError::BadPort(text.to_owned()));
                }
                port
            }
        };
        let prefix = prefix.trim_end_matches('/').to_owned();
        Ok(Endpoint::Tcp { host: host.to_owned(), port, prefix, is_tls })
    }

    /// Whether TLS is spoken there.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Endpoint::Tcp { is_tls: true, .. })
    }

    /// What goes before every path.
    pub(super) fn prefix(&self) -> &str {
        match self {
            Endpoint::Unix { .. } => "",
            Endpoint::Tcp { prefix, .. } => prefix,
        }
    }

    /// For the `Host` header.
    pub(super) fn host(&self) -> String {
        match self {
            Endpoint::Unix { .. } => "localhost".to_owned(),
            Endpoint::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }

    /// The socket's path, if it is one.
    #[must_use]
    pub fn socket_path(&self) -> Option<&Path> {
        match self {
            Endpoint::Unix { path } => Some(path),
            Endpoint::Tcp { .. } => None,
        }
    }

    pub(super) async fn connect(&self, tls: Option<&Tls>) -> io::Result<Box<dyn ByteStream>> {
        match self {
            Endpoint::Unix { path } => Ok(Box::new(UnixStream::connect(path).await?)),
            Endpoint::Tcp { host, port, .. } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                self.secure(tls, stream).await
            }
        }
    }

    /// A stream that leads there, with TLS over it if the endpoint says so. Without `tls` the server is verified by the
    /// authorities of this system.
    pub(super) async fn secure<S: ByteStream + 'static>(
        &self,
        tls: Option<&Tls>,
        stream: S,
    ) -> io::Result<Box<dyn ByteStream>> {
        let Endpoint::Tcp { host, is_tls: true, .. } = self else { return Ok(Box::new(stream)) };
        let tls = match tls {
            Some(tls) => tls.clone(),
            None => Tls::new(&TlsOptions::default()).map_err(io::Error::other)?,
        };
        Ok(Box::new(tls.connect(host, stream).await?))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix { path } => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp { prefix, is_tls, .. } => {
                let scheme = if *is_tls { "https" } else { "http" };
                write!(f, "{scheme}://{}{prefix}", self.host())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        Endpoint::parse(text).map_or_else(|error| error.to_string(), |endpoint| endpoint.to_string())
    }

    #[test]
    fn endpoints_are_sockets_and_hosts() {
        assert_eq!(read("unix:///run/fleet.sock"), "unix:///run/fleet.sock");
        assert_eq!(read("unix:/run/fleet.sock"), "unix:///run/fleet.sock");
        assert_eq!(read("file:///run/fleet.sock"), "unix:///run/fleet.sock");
        assert_eq!(read("http://h"), "http://h:80");
        assert_eq!(read("http://10.0.0.1:49153/p/"), "http://10.0.0.1:49153/p");
        assert_eq!(read("http://[fd00::1]:1/"), "http://[fd00::1]:1");
        assert_eq!(read("http://[fd00::1]"), "http://[fd00::1]:80");
        assert_eq!(read("https://node1.example.org:49153"), "https://node1.example.org:49153");
        assert_eq!(read("https://h/p"), "https://h:443/p");
        assert_eq!(read("HTTPS://[fd00::1]:1"), "https://[fd00::1]:1");
    }

    #[test]
    fn refusals_have_the_words_of_fleet_1() {
        assert_eq!(
            read("127.0.0.1:49153"),
            "parse \"127.0.0.1:49153\": first path segment in URL cannot contain colon"
        );
        assert_eq!(read("/run/fleet.sock"), "URL scheme undefined");
        assert!(read("unix://var/run").starts_with("unable to connect to host \"var\" with scheme \"unix\""));
        assert!(read("https://user@h").contains("\"user@h\" is neither a DNS name nor an address"));
        assert!(read("ftp://h").contains("\"ftp\""));
        assert!(read("http://h:0").contains("port"));
        assert!(read("http://:80").contains("no host"));
        assert!(read("unix://").contains("no socket"));
    }
}
