//! Global flags and `FLEETCTL_*`, merged: the command line wins, an empty variable counts as unset.
//!
//! Flags of fleet 1.0 that have no use any more are accepted without effect or refused with the name of what replaces
//! them, never ignored where ignoring them would do something else than asked.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use fleet_api::client::{Endpoint, EndpointError, Timeouts, Tls, TlsError, TlsOptions};

use crate::flags::{LONGEST, go_bool};
use crate::output::colour::When;
use crate::ssh::SshOptions;

const SSH_TIMEOUT: Duration = Duration::from_secs(10);
const KNOWN_HOSTS: &str = "~/.fleetctl/known_hosts";
const DEFAULT_ENDPOINT: &str = "unix:///var/run/fleet.sock";

#[derive(Args, Clone, Debug, Default)]
pub struct GlobalFlags {
    /// Where fleetd listens: unix:///PATH, file:///PATH, https://HOST:PORT or http://HOST:PORT
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub endpoint: Option<String>,
    /// Seconds to wait for an answer of the API
    #[arg(long, global = true, value_name = "SECONDS", help_heading = "Global options")]
    pub request_timeout: Option<String>,
    /// Show the requests that are sent
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", help_heading = "Global options")]
    pub debug: Option<String>,
    /// Print the version
    #[arg(short = 'v', long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", value_parser = go_bool, hide_default_value = true, value_name = "BOOL",
          help_heading = "Global options")]
    pub version: bool,
    /// Colour states: auto (on a terminal, unless NO_COLOR is set), always or never
    #[arg(long, global = true, value_name = "WHEN", help_heading = "Global options")]
    pub color: Option<String>,
    #[arg(long, global = true, hide = true)]
    driver: Option<String>,
    /// Reach the endpoint from HOST[:PORT], through SSH
    #[arg(long, global = true, value_name = "HOST", help_heading = "Global options")]
    tunnel: Option<String>,
    #[arg(long, global = true, hide = true)]
    etcd_key_prefix: Option<String>,
    #[arg(long, global = true, hide = true)]
    etcd_keyfile: Option<String>,
    #[arg(long, global = true, hide = true)]
    etcd_certfile: Option<String>,
    #[arg(long, global = true, hide = true)]
    etcd_cafile: Option<String>,
    /// This client's certificate for an https endpoint, PEM
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    cert_file: Option<String>,
    /// Key of that certificate, PEM
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    key_file: Option<String>,
    /// Authority of the server's certificate, PEM [default: those of this system]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    ca_file: Option<String>,
    /// Take whoever answers for the server
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", help_heading = "Global options")]
    insecure_skip_tls_verify: Option<String>,
    /// User for SSH [default: core]
    #[arg(long, global = true, value_name = "USER", help_heading = "Global options")]
    ssh_username: Option<String>,
    /// Seconds to wait for an SSH connection [default: 10]
    #[arg(long, global = true, value_name = "SECONDS", help_heading = "Global options")]
    ssh_timeout: Option<String>,
    /// Host keys that SSH knows [default: ~/.fleetctl/known_hosts]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    known_hosts_file: Option<String>,
    /// Ask before SSH trusts an unknown host [default: true]
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_name = "BOOL", help_heading = "Global options")]
    strict_host_key_checking: Option<String>,
    #[arg(long, global = true, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    experimental_api: Option<String>,
}

/// What the client is to do with all that.
#[derive(Clone, Debug)]
pub struct Settings {
    pub endpoint: Endpoint,
    /// For an https endpoint, and for no other.
    pub tls: Option<Tls>,
    pub timeouts: Timeouts,
    pub debug: bool,
    pub color: When,
    pub ssh: SshOptions,
    /// Things to say before anything else.
    pub warnings: Vec<String>,
}

/// Why no client can be made; printed after `Unable to initialize client: `.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{given} needs {missing} beside it: a certificate is of no use without its key")]
    HalfIdentity { given: &'static str, missing: &'static str },
    #[error("unrecognized driver {0:?}")]
    UnknownDriver(String),
    #[error(
        "{flag} is gone: the client speaks only the API; give --endpoint the socket of a machine's fleetd"
    )]
    Etcd { flag: &'static str },
    #[error("{flag}: {value:?} is not valid: {expected}")]
    Value { flag: &'static str, value: String, expected: String },
}

impl SettingsError {
    /// Whether the command line is at fault, not what it asks for.
    pub fn is_usage(&self) -> bool {
        matches!(self, SettingsError::Value { .. } | SettingsError::HalfIdentity { .. })
    }
}

impl Settings {
    /// `variable` looks up the environment.
    pub fn merge(
        flags: &GlobalFlags,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Settings, SettingsError> {
        let given = |flag: &Option<String>, name: &str| {
            flag.clone().or_else(|| variable(&format!("FLEETCTL_{name}"))).filter(|value| !value.is_empty())
        };
        match given(&flags.driver, "DRIVER").as_deref() {
            None | Some("API") => {}
            Some("etcd") => return Err(SettingsError::Etcd { flag: "--driver=etcd" }),
            Some(other) => return Err(SettingsError::UnknownDriver(other.to_owned())),
        }
        if given(&flags.etcd_key_prefix, "ETCD_KEY_PREFIX").is_some() {
            return Err(SettingsError::Etcd { flag: "--etcd-key-prefix" });
        }
        let mut warnings = Vec::new();
        let endpoints = given(&flags.endpoint, "ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let (first, others) = endpoints.split_once(',').unwrap_or((&endpoints, ""));
        if !others.is_empty() {
            warnings.push(format!("multiple endpoints provided but only the first ({first}) is used"));
        }
        let mut timeouts = Timeouts::default();
        if let Some(value) = given(&flags.request_timeout, "REQUEST_TIMEOUT") {
            timeouts.response = seconds("--request-timeout", &value)?;
        }
        let boolean = |flag: &'static str, value: Option<String>, default| match value {
            None => Ok(default),
            Some(value) => go_bool(&value).map_err(|expected| SettingsError::Value { flag, value, expected }),
        };
        let known_hosts = given(&flags.known_hosts_file, "KNOWN_HOSTS_FILE");
        let strict = given(&flags.strict_host_key_checking, "STRICT_HOST_KEY_CHECKING");
        let ssh = SshOptions {
            username: given(&flags.ssh_username, "SSH_USERNAME").unwrap_or_else(|| "core".to_owned()),
            timeout: given(&flags.ssh_timeout, "SSH_TIMEOUT")
                .map_or(Ok(SSH_TIMEOUT), |value| seconds("--ssh-timeout", &value))?,
            known_hosts_file: expand_home(known_hosts.as_deref().unwrap_or(KNOWN_HOSTS), variable("HOME")),
            strict_host_key_checking: boolean("--strict-host-key-checking", strict, true)?,
            tunnel: given(&flags.tunnel, "TUNNEL"),
        };
        let debug = boolean("--debug", given(&flags.debug, "DEBUG"), false)?;
        let color = match given(&flags.color, "COLOR") {
            None => When::Auto,
            Some(value) => When::from_str(&value, false).map_err(|_| SettingsError::Value {
                flag: "--color",
                value,
                expected: "expected auto, always or never".to_owned(),
            })?,
        };
        let endpoint = Endpoint::parse(first)?;
        // The names of fleet 1.0 before these; the new one wins.
        let mut file = |flag: &Option<String>, name: &str, old: &Option<String>, old_name: &str| {
            let former = given(old, old_name);
            if former.is_some() {
                let spelled = |name: &str| format!("--{}", name.to_lowercase().replace('_', "-"));
                warnings.push(format!("{} is deprecated, use {}", spelled(old_name), spelled(name)));
            }
            given(flag, name).or(former).map(PathBuf::from)
        };
        let certificate = file(&flags.cert_file, "CERT_FILE", &flags.etcd_certfile, "ETCD_CERTFILE");
        let key = file(&flags.key_file, "KEY_FILE", &flags.etcd_keyfile, "ETCD_KEYFILE");
        let ca = file(&flags.ca_file, "CA_FILE", &flags.etcd_cafile, "ETCD_CAFILE");
        let unverified = given(&flags.insecure_skip_tls_verify, "INSECURE_SKIP_TLS_VERIFY");
        let options = TlsOptions {
            identity: identity(certificate, key)?,
            ca,
            is_unverified: boolean("--insecure-skip-tls-verify", unverified, false)?,
        };
        // A profile may set the variables for good; they matter where TLS is spoken.
        let tls = if endpoint.is_tls() { Some(Tls::new(&options)?) } else { None };
        if tls.is_some() && options.is_unverified {
            warnings.push(format!(
                "whoever answers at {endpoint} is taken for the server: --insecure-skip-tls-verify"
            ));
        }
        Ok(Settings { endpoint, tls, timeouts, debug, color, ssh, warnings })
    }
}

fn identity(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<(PathBuf, PathBuf)>, SettingsError> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(SettingsError::HalfIdentity { given: "--cert-file", missing: "--key-file" }),
        (None, Some(_)) => Err(SettingsError::HalfIdentity { given: "--key-file", missing: "--cert-file" }),
    }
}

/// `~` is the home of who runs this, `~user` that of another whom this machine's passwd knows.
fn expand_home(path: &str, home: Option<String>) -> PathBuf {
    let Some(rest) = path.strip_prefix('~') else { return PathBuf::from(path) };
    let (user, below) = rest.split_once('/').unwrap_or((rest, ""));
    let home = if user.is_empty() { home } else { home_of(user) };
    home.map_or_else(|| PathBuf::from(path), |home| PathBuf::from(home).join(below))
}

fn home_of(user: &str) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = passwd.lines().map(|line| line.split(':')).find_map(|mut fields| {
        let is_user = fields.next() == Some(user);
        is_user.then_some(fields)
    })?;
    // Behind the password, the ids and the full name.
    fields.nth(4).map(str::to_owned)
}

fn seconds(flag: &'static str, value: &str) -> Result<Duration, SettingsError> {
    let read = value.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    read.filter(|duration| !duration.is_zero() && *duration <= LONGEST).ok_or_else(|| SettingsError::Value {
        flag,
        value: value.to_owned(),
        expected: "expected seconds, more than zero and at most a year".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)], flags: &GlobalFlags) -> Result<Settings, SettingsError> {
        Settings::merge(flags, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_command_line_wins_over_the_environment_and_an_empty_variable_is_unset() {
        let endpoint = |variables: &[(&str, &str)], flag: Option<&str>| {
            let flags = GlobalFlags { endpoint: flag.map(str::to_owned), ..GlobalFlags::default() };
            with(variables, &flags).unwrap().endpoint.to_string()
        };
        assert_eq!(endpoint(&[], None), DEFAULT_ENDPOINT);
        assert_eq!(endpoint(&[("FLEETCTL_ENDPOINT", "")], None), DEFAULT_ENDPOINT);
        assert_eq!(endpoint(&[("FLEETCTL_ENDPOINT", "http://h:1")], None), "http://h:1");
        assert_eq!(endpoint(&[("FLEETCTL_ENDPOINT", "http://h:1")], Some("http://i:2")), "http://i:2");
    }

    #[test]
    fn of_several_endpoints_the_first_is_used_with_a_warning() {
        let settings =
            with(&[("FLEETCTL_ENDPOINT", "http://h:1,http://i:2")], &GlobalFlags::default()).unwrap();
        assert_eq!(
            settings.warnings,
            ["multiple endpoints provided but only the first (http://h:1) is used"]
        );
    }

    #[test]
    fn what_is_gone_is_refused_with_its_replacement() {
        let message = |name: &str, value: &str| {
            with(&[(name, value)], &GlobalFlags::default()).unwrap_err().to_string()
        };
        assert!(message("FLEETCTL_DRIVER", "etcd").contains("--endpoint"));
        assert_eq!(message("FLEETCTL_DRIVER", "api"), "unrecognized driver \"api\"");
        assert!(message("FLEETCTL_ETCD_KEY_PREFIX", "/x").contains("speaks only the API"));
        assert!(message("FLEETCTL_SSH_TIMEOUT", "0").contains("--ssh-timeout"));
        assert!(message("FLEETCTL_REQUEST_TIMEOUT", "soon").contains("expected seconds"));
        assert!(message("FLEETCTL_DEBUG", "maybe").contains("true or false"));
    }

    #[test]
    fn the_flags_about_tls_matter_at_an_https_endpoint() {
        let missing = [("FLEETCTL_CA_FILE", "/nonexistent/ca.pem")];
        assert!(with(&missing, &GlobalFlags::default()).unwrap().tls.is_none());
        let secure = [missing[0], ("FLEETCTL_ENDPOINT", "https://h:1")];
        let error = with(&secure, &GlobalFlags::default()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nonexistent/ca.pem: "), "{error}");
        let unverified = [("FLEETCTL_INSECURE_SKIP_TLS_VERIFY", "true"), secure[1]];
        let settings = with(&unverified, &GlobalFlags::default()).unwrap();
        assert!(settings.tls.is_some() && settings.warnings[0].contains("https://h:1"), "{settings:?}");
    }

    #[test]
    fn a_certificate_and_its_key_are_given_together() {
        for (name, missing) in [("FLEETCTL_CERT_FILE", "--key-file"), ("FLEETCTL_KEY_FILE", "--cert-file")] {
            let error = with(&[(name, "/x.pem")], &GlobalFlags::default()).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(missing), "{error}");
        }
    }

    #[test]
    fn the_former_names_of_the_flags_about_tls_are_taken_with_a_warning() {
        let former = [("FLEETCTL_ETCD_CAFILE", "/nonexistent/old.pem")];
        let settings = with(&former, &GlobalFlags::default()).unwrap();
        assert_eq!(settings.warnings, ["--etcd-cafile is deprecated, use --ca-file"]);
        let secure = [former[0], ("FLEETCTL_ENDPOINT", "https://h:1")];
        let error = with(&secure, &GlobalFlags::default()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nonexistent/old.pem: "), "{error}");
        let both = [secure[0], secure[1], ("FLEETCTL_CA_FILE", "/nonexistent/new.pem")];
        let error = with(&both, &GlobalFlags::default()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nonexistent/new.pem: "), "{error}");
        assert!(with(&[("FLEETCTL_ETCD_KEYFILE", "/x")], &GlobalFlags::default()).unwrap_err().is_usage());
    }

    #[test]
    fn colours_are_for_terminals_unless_somebody_says_otherwise() {
        let color =
            |variables: &[(&str, &str)]| with(variables, &GlobalFlags::default()).map(|all| all.color);
        assert_eq!(color(&[]).unwrap(), When::Auto);
        assert_eq!(color(&[("FLEETCTL_COLOR", "never")]).unwrap(), When::Never);
        assert!(color(&[("FLEETCTL_COLOR", "sometimes")]).unwrap_err().is_usage());
    }

    #[test]
    fn a_tilde_is_a_home() {
        let expanded = |path: &str| expand_home(path, Some("/home/me".to_owned()));
        assert_eq!(expanded("~/x/y"), PathBuf::from("/home/me/x/y"));
        assert_eq!(expanded("~root/x"), PathBuf::from("/root/x"));
        assert_eq!(expanded("~nobody-of-that-name/x"), PathBuf::from("~nobody-of-that-name/x"));
        assert_eq!(expanded("/~/x"), PathBuf::from("/~/x"));
    }

    #[test]
    fn the_flags_about_ssh_have_the_defaults_of_fleet_1() {
        let ssh = with(&[("HOME", "/home/me")], &GlobalFlags::default()).unwrap().ssh;
        assert_eq!((ssh.username.as_str(), ssh.timeout), ("core", Duration::from_secs(10)));
        assert_eq!(ssh.known_hosts_file, PathBuf::from("/home/me/.fleetctl/known_hosts"));
        assert!(ssh.strict_host_key_checking && ssh.tunnel.is_none());
        let ssh = with(
            &[("FLEETCTL_TUNNEL", "h:22"), ("FLEETCTL_STRICT_HOST_KEY_CHECKING", "false")],
            &GlobalFlags::default(),
        );
        let ssh = ssh.unwrap().ssh;
        assert_eq!((ssh.tunnel.as_deref(), ssh.strict_host_key_checking), (Some("h:22"), false));
    }
}
