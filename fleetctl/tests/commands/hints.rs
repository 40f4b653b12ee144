//! What may have been meant by names that do not exist: said on a line of its own, behind what fleet 1.0 says.

use super::fake::{Answer, Fake};
use serde_json::json;

fn fake() -> Fake {
    let known = json!({ "units": [{ "name": "webserver.service" }, { "name": "backup.timer" }] });
    // Asked for by name there is none of them.
    Fake::new().on("GET /fleet/v2/units", Answer::ok(known))
}

#[tokio::test]
async fn a_unit_that_does_not_exist_is_followed_by_the_one_that_is_meant() {
    let missing = |fake: Fake, what: &str| fake.on(what, Answer::error(404, "unit does not exist"));
    let fake = missing(fake(), "GET /fleet/v2/units/webservr.service");
    let fake = missing(fake, "GET /fleet/v2/units/webservr.service/text");
    let fake = missing(fake, "GET /fleet/v2/units/webservr.service/why");
    for (command, says) in [
        ("status", "Unit webservr.service does not exist."),
        ("journal", "Unit webservr.service does not exist."),
        ("why", "Unit webservr.service does not exist."),
        ("cat", "Unit webservr.service not found"),
        ("start", "Error creating units: unable to find Unit(webservr.service) in Registry or on filesystem"),
    ] {
        let output = fake.run(&[command, "webservr"]).await;
        assert_eq!(output.err, format!("{says}\nDid you mean webserver.service?\n"), "{command}");
        assert_eq!((output.out.as_str(), output.code), ("", Some(1)), "{command}");
    }
    for command in ["stop", "unload", "destroy"] {
        let output = fake.run(&[command, "webservr"]).await;
        assert_eq!(output.err, "Units not found in registry\nDid you mean webserver.service?\n", "{command}");
        assert_eq!((output.out.as_str(), output.code), ("", Some(0)), "{command}");
    }
}

#[tokio::test]
async fn nothing_is_guessed_where_nothing_is_near() {
    let output = fake().run(&["stop", "postgres"]).await;
    assert_eq!(output.err, "Units not found in registry\n");
}

#[tokio::test]
async fn a_field_that_does_not_exist_is_followed_by_the_one_that_is_meant() {
    let output = fake().run(&["list-unit-files", "--fields=unit,dsatte"]).await;
    assert_eq!(output.err, "Invalid key in output format: \"dsatte\"\nDid you mean dstate?\n");
    assert_eq!(output.code, Some(1));
}

#[tokio::test]
async fn help_about_what_does_not_exist_is_the_overview() {
    let output = fake().run(&["help", "nothing"]).await;
    assert_eq!((output.err.as_str(), output.code), ("Unknown help topic [`nothing`].\n", Some(0)));
    assert!(output.out.contains("list-unit-files"), "{}", output.out);
}
