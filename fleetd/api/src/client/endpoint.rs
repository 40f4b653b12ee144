//! Where a server is, as `--endpoint` says it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use tokio::net::{TcpStream, UnixStream};

use super::ByteStream;

/// `unix:///run/fleet.sock`, `file:///run/fleet.sock` or `http://host:port/prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix { path: PathBuf },
    Tcp { host: String, port: u16, prefix: String },
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
    #[error("endpoint {0:?} names no host; write http://HOST:PORT")]
    NoHost(String),
    #[error("endpoint {0:?}: the port is no number from 1 to 65535")]
    BadPort(String),
    #[error(
        "endpoint {0:?}: TLS is not supported by this release; use the unix socket of a machine, http on a trusted network, or an SSH forwarding of the socket"
    )]
    NoTls(String),
    #[error("endpoint {endpoint:?}: scheme {scheme:?} is not supported; use unix, file or http")]
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
            "http" => Endpoint::network(text, rest),
            "https" => Err(EndpointError::NoTls(text.to_owned())),
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

    fn network(text: &str, rest: &str) -> Result<Endpoint, EndpointError> {
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
        let port = match port {
            None => 80,
            Some(port) => {
                let port: u16 = port.parse().map_err(|_| EndpointError::BadPort(text.to_owned()))?;
                if port == 0 {
                    return Err(EndpointError::BadPort(text.to_owned()));
                }
                port
            }
        };
        Ok(Endpoint::Tcp { host: host.to_owned(), port, prefix: prefix.trim_end_matches('/').to_owned() })
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

    pub(super) async fn connect(&self) -> io::Result<Box<dyn ByteStream>> {
        match self {
            Endpoint::Unix { path } => Ok(Box::new(UnixStream::connect(path).await?)),
            Endpoint::Tcp { host, port, .. } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix { path } => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp { prefix, .. } => write!(f, "http://{}{prefix}", self.host()),
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
    }

    #[test]
    fn refusals_have_the_words_of_fleet_1() {
        assert_eq!(
            read("127.0.0.1:49153"),
            "parse \"127.0.0.1:49153\": first path segment in URL cannot contain colon"
        );
        assert_eq!(read("/run/fleet.sock"), "URL scheme undefined");
        assert!(read("unix://var/run").starts_with("unable to connect to host \"var\" with scheme \"unix\""));
        assert!(read("https://h").contains("TLS"));
        assert!(read("ftp://h").contains("\"ftp\""));
        assert!(read("http://h:0").contains("port"));
        assert!(read("http://:80").contains("no host"));
        assert!(read("unix://").contains("no socket"));
    }
}
