//! The packaged configuration file: every key with its default, commented out.

use super::keys::{KEYS, Key};

const HEAD: &str = "\
# Configuration of fleetd. Every key is shown with its default; `fleetd check-config` prints what is in effect and where it
# comes from. From the lowest to the highest, each overriding the ones before it key by key:
#   /usr/lib/fleet/fleetd.d/*.toml, /etc/fleet/fleet.conf (of fleet 1.0), this file, /etc/fleet/fleetd.d/*.toml,
#   /run/fleet/fleetd.d/*.toml, environment variables FLEET_<KEY>.
# A value that cannot be used keeps fleetd from starting. `systemctl kill -s HUP fleetd` reads everything again.
";

const OLD_HEAD: &str = "
# Names of fleet 1.0 that are taken, so that old configurations work; nothing new needs them.
";

/// The text of `/etc/fleet/fleetd.toml` as it is packaged.
#[must_use]
pub fn template() -> String {
    let mut text = HEAD.to_owned();
    let (own, old): (Vec<&Key>, Vec<&Key>) = KEYS.iter().partition(|key| key.show.is_some());
    for key in own {
        // Keys without a word of their own belong to the one before them.
        if !key.about.is_empty() {
            text.push('\n');
        }
        for line in key.about.lines() {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str(&format!("#{} = {}\n", key.name, sample(key)));
    }
    text.push_str(OLD_HEAD);
    for key in old {
        text.push_str(&format!("#{} = {}  # {}\n", key.name, sample(key), key.help));
    }
    text
}

fn sample(key: &Key) -> String {
    match key.name {
        // The only key whose default says nothing of how a value looks.
        "etcd_servers" => {
            r#"["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"]"#.to_owned()
        }
        "engine_reconcile_interval" => "2.0".to_owned(),
        "authorized_keys_file" => "\"\"".to_owned(),
        _ => key.default().map_or_else(|| "false".to_owned(), |value| value.to_string()),
    }
}
