//! Finding the programs a lab needs: our own beside the running one, the host's in `PATH`.

use std::path::{Path, PathBuf};

use super::LabError;

/// Programs of the host without which no lab boots.
const HOST_PROGRAMS: [&str; 9] =
    ["systemd-nspawn", "debootstrap", "unshare", "nsenter", "setsid", "ip", "nft", "etcd", "etcdctl"];

/// Refuses early, with what to install.
pub(super) fn check_host() -> Result<(), LabError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    let missing = HOST_PROGRAMS.iter().find(|program| in_path(program).is_none());
    match missing {
        Some(program) => Err(LabError::MissingProgram { program: (*program).to_owned() }),
        None => Ok(()),
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// One of our own binaries: what the caller named, else the environment variable, else the file beside the running
/// program (tests and benches run from a subdirectory of where cargo puts binaries).
pub(super) fn locate(
    program: &'static str,
    variable: &'static str,
    given: Option<&Path>,
) -> Result<PathBuf, LabError> {
    let named = given.map(Path::to_owned).or_else(|| std::env::var_os(variable).map(PathBuf::from));
    if let Some(path) = named {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(LabError::MissingBinary { program, path, variable })
        };
    }
    let running =
        std::env::current_exe().map_err(LabError::file("find the running program", "/proc/self/exe"))?;
    let candidates: Vec<_> = running.ancestors().skip(1).take(2).map(|place| place.join(program)).collect();
    candidates.iter().find(|path| path.is_file()).cloned().ok_or_else(|| LabError::MissingBinary {
        program,
        path: candidates.into_iter().next_back().unwrap_or_else(|| PathBuf::from(program)),
        variable,
    })
}
