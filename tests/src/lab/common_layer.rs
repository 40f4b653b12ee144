//! What all machines of one lab share above the Debian tree: fleetd and fleetctl, and the files a package would
//! install, taken from `fleetd/dist`. Made once per lab, before the first boot.

use std::path::{Path, PathBuf};

use super::layout::Layout;
use super::options::LabOptions;
use super::{LabError, binaries};

/// The group whose members may talk to fleetd's socket; a package makes it with sysusers.
const FLEET_GROUP: &str = "fleet:x:977:\n";

/// Fills the common layer; with `systemd_only` it stays empty.
pub(super) fn build(options: &LabOptions, layout: &Layout, tree: &Path) -> Result<(), LabError> {
    let common = layout.common();
    directory(&common)?;
    if options.systemd_only || options.machines == 0 {
        return Ok(());
    }
    let bin = common.join("usr/bin");
    directory(&bin)?;
    let fleetd = binaries::locate("fleetd", "FLEETD_BIN", options.fleetd_binary.as_deref())?;
    let fleetctl = binaries::locate("fleetctl", "FLEETCTL_BIN", options.fleetctl_binary.as_deref())?;
    copy(&fleetd, &bin.join("fleetd"))?;
    copy(&fleetctl, &bin.join("fleetctl"))?;
    copy_tree(&dist(), &common)?;
    // systemd-sysusers runs only when /etc is older than /usr; a lab's machines are never updated.
    let group = common.join("etc/group");
    let base = std::fs::read_to_string(tree.join("etc/group"))
        .map_err(LabError::file("read", tree.join("etc/group")))?;
    std::fs::write(&group, format!("{base}{FLEET_GROUP}")).map_err(LabError::file("write", &group))?;
    let wants = common.join("etc/systemd/system/multi-user.target.wants");
    directory(&wants)?;
    let link = wants.join("fleetd.service");
    std::os::unix::fs::symlink("/usr/lib/systemd/system/fleetd.service", &link)
        .map_err(LabError::file("link", &link))
}

/// What a package installs: `FLEET_LAB_DIST`, else the directory of the checkout this program was built from.
fn dist() -> PathBuf {
    std::env::var_os("FLEET_LAB_DIST")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../fleetd/dist"), PathBuf::from)
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), LabError> {
    for entry in std::fs::read_dir(from).map_err(LabError::file("read directory", from))?.flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            directory(&target)?;
            copy_tree(&entry.path(), &target)?;
        } else {
            copy(&entry.path(), &target)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), LabError> {
    std::fs::copy(from, to).map(drop).map_err(LabError::file("copy", from))
}

fn directory(path: &Path) -> Result<(), LabError> {
    std::fs::create_dir_all(path).map_err(LabError::file("create directory", path))
}
