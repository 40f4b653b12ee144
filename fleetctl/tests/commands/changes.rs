//! The commands that change something, against canned answers: what they send, say, and exit with.

use super::answers::{HASH, REQUESTS, TEXT, UNITS, WAIT, accepted, done, known, results, units};
use super::fake::{Answer, Fake};
use serde_json::{Value, json};

#[tokio::test]
async fn start_of_a_new_unit_sends_its_text_and_waits_for_the_record_it_wrote() {
    let created = json!({ "unit": "a.service", "ok": true, "created": true, "changed": true, "uid": "u1",
                          "revision": 7, "desired": "launched" });
    let fake = Fake::new()
        .on(UNITS, units(&[]))
        .on(REQUESTS, results(&[created]))
        .on(WAIT, Answer::Lines(vec![json!({ "heartbeat": true }), done("a.service", "launched")]));
    fake.file("a.service", TEXT);
    let output = fake.run(&["start", "--why", "test", "a"]).await;
    assert_eq!(output.out, "Unit a.service inactive\nUnit a.service launched on 11111111.../10.0.0.1\n");
    assert_eq!((output.err.as_str(), output.code), ("", Some(0)));
    let sent = &fake.seen(REQUESTS)[0].body;
    assert_eq!(sent["actions"][0]["text"], TEXT);
    assert_eq!((&sent["actions"][0]["verb"], &sent["why"]), (&json!("start"), &json!("test")));
    assert!(sent["requestId"].as_str().is_some_and(|id| !id.is_empty()));
    assert_eq!(
        fake.seen(WAIT)[0].body["units"],
        json!([{ "unit": "a.service", "revision": 7, "uid": "u1" }])
    );
}

#[tokio::test]
async fn three_hundred_units_are_one_request_and_one_wait() {
    let names: Vec<String> = (0..300).map(|n| format!("u{n:03}.service")).collect();
    let all = |make: &dyn Fn(&str) -> Value| names.iter().map(|name| make(name)).collect::<Vec<_>>();
    let fake = Fake::new()
        .on(UNITS, units(&all(&|name| known(name, "inactive"))))
        .on(REQUESTS, results(&all(&|name| accepted(name, "launched"))))
        .on(WAIT, Answer::Lines(all(&|name| done(name, "launched"))));
    let mut arguments = vec!["start"];
    arguments.extend(names.iter().map(String::as_str));
    let output = fake.run(&arguments).await;
    assert_eq!(output.code, Some(0), "{}", output.err);
    assert_eq!(output.out.lines().count(), 300);
    assert_eq!((fake.seen(REQUESTS).len(), fake.seen(WAIT).len()), (1, 1));
    assert_eq!(fake.seen(REQUESTS)[0].body["actions"].as_array().map(Vec::len), Some(300));
}

#[tokio::test]
async fn a_repeated_start_is_silent() {
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "launched")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched")]))
        .on(WAIT, Answer::Lines(vec![done("a.service", "launched")]));
    let output = fake.run(&["start", "a.service"]).await;
    assert_eq!((output.out.as_str(), output.err.as_str(), output.code), ("", "", Some(0)));
}

#[tokio::test]
async fn a_failed_run_exits_with_1_and_says_what_systemd_said() {
    let failed = json!({ "unit": "a.service", "phase": "failed", "failed": true, "desired": "launched",
        "machine": { "id": "1111111111111111", "ip": "10.0.0.1" }, "active": "failed", "sub": "failed",
        "result": "exit-code", "reason": { "code": "run-failed", "text": "main process exited with 3" } });
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "inactive")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched")]))
        .on(WAIT, Answer::Lines(vec![failed]));
    let output = fake.run(&["start", "a.service"]).await;
    assert_eq!((output.out.as_str(), output.code), ("", Some(1)));
    assert!(output.err.starts_with(
        "Error waiting for units: unit a.service failed on 11111111.../10.0.0.1: result exit-code (failed/failed): main process exited with 3\n"
    ), "{}", output.err);
}

#[tokio::test]
async fn a_registry_that_does_not_answer_exits_with_6() {
    let fake = Fake::new().on(UNITS, Answer::error(503, "fleet server unable to communicate with etcd"));
    let output = fake.run(&["stop", "a"]).await;
    assert_eq!(output.code, Some(6));
    assert_eq!(
        output.err,
        "Error stopping units: googleapi: Error 503: fleet server unable to communicate with etcd\n"
    );
}

#[tokio::test]
async fn stop_ends_with_the_line_of_fleet_1_on_stderr() {
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "launched"), known("b.service", "launched")]))
        .on(REQUESTS, results(&[accepted("a.service", "loaded"), accepted("b.service", "loaded")]))
        .on(WAIT, Answer::Lines(vec![done("a.service", "loaded"), done("b.service", "loaded")]));
    let output = fake.run(&["stop", "a", "b"]).await;
    assert_eq!(
        output.out,
        "Unit a.service loaded on 11111111.../10.0.0.1\nUnit b.service loaded on 11111111.../10.0.0.1\n"
    );
    assert_eq!(
        (output.err.as_str(), output.code),
        ("Successfully stopped units [a.service b.service].\n", Some(0))
    );
}

#[tokio::test]
async fn stop_judges_by_what_is_wanted() {
    let fake = Fake::new().on(UNITS, units(&[known("a.service", "inactive")]));
    let output = fake.run(&["stop", "a"]).await;
    assert_eq!(
        (output.err.as_str(), output.code),
        ("Unable to stop unit a.service in state inactive\n", Some(1))
    );

    let waiting = json!({ "unit": "a.service", "phase": "unplaceable", "desired": "loaded", "currentState": "inactive" });
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "launched")]))
        .on(REQUESTS, results(&[accepted("a.service", "loaded")]))
        .on(WAIT, Answer::Lines(vec![waiting]));
    let output = fake.run(&["stop", "a"]).await;
    assert_eq!((output.out.as_str(), output.code), ("Unit a.service inactive\n", Some(0)));
}

#[tokio::test]
async fn withdrawing_unknown_units_is_no_error() {
    let fake = Fake::new().on(UNITS, units(&[]));
    for verb in ["stop", "unload", "destroy"] {
        let output = fake.run(&[verb, "a"]).await;
        assert_eq!((output.err.as_str(), output.code), ("Units not found in registry\n", Some(0)), "{verb}");
        let output = fake.run(&[verb]).await;
        assert_eq!((output.err.as_str(), output.code), ("No units given\n", Some(0)), "{verb}");
    }
}

#[tokio::test]
async fn an_unknown_name_among_known_ones_is_no_error_but_is_named() {
    for (verb, after) in [("stop", "loaded"), ("unload", "inactive"), ("destroy", "destroyed")] {
        let fake = Fake::new()
            .on(UNITS, units(&[known("a.service", "launched"), known("b.service", "launched")]))
            .on(REQUESTS, results(&[accepted("a.service", after), accepted("b.service", after)]))
            .on(WAIT, Answer::Lines(vec![done("a.service", after), done("b.service", after)]));
        let output = fake.run(&[verb, "a", "typo", "b", "typo.service"]).await;
        let told: Vec<&str> = output.err.lines().filter(|line| line.contains("typo")).collect();
        assert_eq!(told, ["Units not found in registry: typo.service"], "{verb}");
        assert_eq!((output.out.lines().count(), output.code), (2, Some(0)), "{verb}: {}", output.err);
        assert_eq!(fake.seen(REQUESTS)[0].body["actions"].as_array().map(Vec::len), Some(2));
    }
}

#[tokio::test]
async fn destroy_waits_for_the_acknowledgements_and_names_absent_machines() {
    let gone = json!({ "unit": "a.service", "phase": "gone", "done": true, "absent": ["2222222222222222"] });
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "launched"), known("b.service", "launched")]))
        .on(
            REQUESTS,
            results(&[
                accepted("a.service", "destroyed"),
                json!({ "unit": "b.service", "error": { "code": 404, "message": "unit does not exist" } }),
            ]),
        )
        .on(WAIT, Answer::Lines(vec![gone]));
    let output = fake.run(&["destroy", "a", "b"]).await;
    assert_eq!((output.out.as_str(), output.code), ("Destroyed a.service\n", Some(0)));
    assert_eq!(
        output.err,
        "Unit a.service: not acknowledged by absent machine 22222222...; done when they return\n"
    );
}

#[tokio::test]
async fn a_destroy_that_was_done_before_its_answer_came_is_done_whatever_the_name_is_now() {
    let repeated = json!({ "unit": "a.service", "ok": true, "changed": true });
    let fake =
        Fake::new().on(UNITS, units(&[known("a.service", "launched")])).on(REQUESTS, results(&[repeated]));
    let output = fake.run(&["destroy", "a"]).await;
    assert_eq!((output.out.as_str(), output.code), ("Destroyed a.service\n", Some(0)), "{}", output.err);
    assert!(fake.seen(WAIT).is_empty());
}

#[tokio::test]
async fn no_block_prints_once_and_does_not_wait() {
    let fake =
        Fake::new().on(UNITS, units(&[known("a.service", "inactive"), known("g.service", "inactive")])).on(
            REQUESTS,
            results(&[
                accepted("a.service", "launched"),
                json!({ "unit": "g.service", "ok": true, "global": true, "desired": "launched" }),
            ]),
        );
    let output = fake.run(&["start", "--no-block", "a", "g"]).await;
    assert_eq!(output.out, "Triggered unit a.service start\nTriggered global unit g.service start\n");
    assert_eq!((fake.seen(WAIT).len(), output.code), (0, Some(0)));
}

#[tokio::test]
async fn a_differing_local_file_is_a_warning_and_replace_sends_it() {
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "inactive")]))
        .on(REQUESTS, results(&[accepted("a.service", "inactive")]));
    fake.file("a.service", "[Service]\nExecStart=/bin/false\n");
    let output = fake.run(&["submit", "a"]).await;
    assert_eq!(
        (output.err.as_str(), output.code),
        (
            "WARNING: Unit a.service in registry differs from local unit file a.service. Add --replace to override.\n",
            Some(0)
        )
    );
    assert_eq!(fake.seen(REQUESTS)[0].body["actions"][0].get("text"), None);

    let output = fake.run(&["submit", "--replace", "a"]).await;
    assert_eq!((output.err.as_str(), output.code), ("", Some(0)));
    let sent = &fake.seen(REQUESTS)[1].body["actions"][0];
    assert_eq!(
        (&sent["text"], &sent["replace"]),
        (&json!("[Service]\nExecStart=/bin/false\n"), &json!(true))
    );

    fake.file("a.service", TEXT);
    let output = fake.run(&["submit", "--replace", "a"]).await;
    assert_eq!(output.out, "Found same Unit(a.service) in Registry, nothing to do\n");
}

#[tokio::test]
async fn a_replacement_that_the_state_forbids_is_refused_before_anything_is_sent() {
    for (verb, state, next) in [
        ("submit", "loaded", "fleetctl load --replace a.service"),
        ("submit", "launched", "fleetctl start --replace a.service"),
        ("load", "launched", "fleetctl start --replace a.service"),
    ] {
        let fake = Fake::new().on(UNITS, units(&[known("a.service", state), known("b.service", "inactive")]));
        fake.file("a.service", "[Service]\nExecStart=/bin/false\n");
        fake.file("b.service", "[Service]\nExecStart=/bin/false\n");
        let output = fake.run(&[verb, "--replace", "b", "a"]).await;
        assert!(
            output.err.starts_with(&format!(
                "Error creating units: can not replace Unit(a.service) in state '{state}' with {verb}; nothing was sent"
            )),
            "{}",
            output.err
        );
        assert!(output.err.contains(next), "{}", output.err);
        assert!(output.err.contains("fleetctl unload a.service"), "{}", output.err);
        assert_eq!((output.out.as_str(), output.code), ("", Some(1)));
        assert!(fake.seen(REQUESTS).is_empty());
    }
}

#[tokio::test]
async fn start_replaces_the_text_of_a_launched_unit_and_load_that_of_a_loaded_one() {
    for (verb, state) in [("start", "launched"), ("start", "loaded"), ("load", "loaded")] {
        let after = if verb == "start" { "launched" } else { "loaded" };
        let fake = Fake::new()
            .on(UNITS, units(&[known("a.service", state)]))
            .on(REQUESTS, results(&[accepted("a.service", after)]))
            .on(WAIT, Answer::Lines(vec![done("a.service", after)]));
        fake.file("a.service", "[Service]\nExecStart=/bin/false\n");
        let output = fake.run(&[verb, "--replace", "a"]).await;
        assert_eq!((output.err.as_str(), output.code), ("", Some(0)), "{verb} of {state}");
        assert_eq!(fake.seen(REQUESTS)[0].body["actions"][0]["replace"], json!(true));
    }
}

#[tokio::test]
async fn of_two_texts_for_one_unit_none_is_dropped_silently() {
    let fake = Fake::new()
        .on(UNITS, units(&[]))
        .on(UNITS, units(&[known("a.service", "loaded")]))
        .on(UNITS, units(&[]))
        .on(UNITS, units(&[known("a.service", "loaded")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched")]))
        .on(WAIT, Answer::Lines(vec![done("a.service", "launched")]));
    for (dir, text) in [("old", TEXT), ("same", TEXT), ("new", "[Service]\nExecStart=/bin/false\n")] {
        std::fs::create_dir(fake.dir.path().join(dir)).unwrap();
        fake.file(&format!("{dir}/a.service"), text);
    }
    let output = fake.run(&["start", "old/a", "new/a.service"]).await;
    assert_eq!(
        (output.err.as_str(), output.code),
        (
            "Error creating units: old/a.service and new/a.service are different texts for Unit(a.service); nothing was sent: name one of them\n",
            Some(1)
        )
    );
    assert!(fake.seen(REQUESTS).is_empty());
    let output = fake.run(&["start", "--replace", "old/a", "new/a"]).await;
    assert!(output.err.contains("are different texts for Unit(a.service)"), "{}", output.err);
    assert!(fake.seen(REQUESTS).is_empty());
    // Equal texts are one, and a stored text that is not to be replaced counts before any file.
    for arguments in [&["start", "old/a", "same/a", "a"][..], &["start", "old/a", "new/a"]] {
        let output = fake.run(arguments).await;
        assert_eq!(output.code, Some(0), "{arguments:?}: {}", output.err);
    }
}

#[tokio::test]
async fn an_instance_is_made_from_the_stored_template_before_the_local_one() {
    let template = json!({ "name": "web@.service", "hash": HASH, "desired": "inactive" });
    let created = json!({ "unit": "web@1.service", "ok": true, "created": true, "desired": "inactive" });
    let fake = Fake::new().on(UNITS, units(&[template])).on(REQUESTS, results(&[created]));
    fake.file("web@.service", "[Service]\nExecStart=/bin/false\n");
    let output = fake.run(&["submit", "web@1"]).await;
    assert_eq!(output.out, "Unit web@1.service inactive\n");
    assert_eq!(
        output.err,
        "WARNING: Unit web@.service in registry differs from local template unit file web@1.service. Add --replace to override.\n"
    );
    // The server makes it from its own template, and remembers which.
    assert_eq!(fake.seen(REQUESTS)[0].body["actions"][0].get("text"), None);
    assert_eq!(fake.seen(UNITS)[0].query, "name=web%40.service&name=web%401.service");
}

#[tokio::test]
async fn what_is_nowhere_is_told_in_the_words_of_fleet_1() {
    let fake = Fake::new().on(UNITS, units(&[]));
    fake.file("bad.service", "[X-Fleet]\nGlobal=true\nMachineID=x\n");
    fake.file("empty.service", "# nothing\n");
    for (argument, message) in [
        ("a", "unable to find Unit(a.service) in Registry or on filesystem"),
        (
            "w@1",
            "failed getting Unit(w@1) from template: unable to find template Unit(w@.service) in Registry or on filesystem",
        ),
        ("a b", "invalid character ' ' in unit name"),
        ("bad", "MachineID cannot be used with Global"),
    ] {
        let output = fake.run(&["start", argument]).await;
        assert_eq!((output.err, output.code), (format!("Error creating units: {message}\n"), Some(1)));
    }
    assert!(fake.seen(REQUESTS).is_empty());
    assert_eq!(fake.run(&["submit", "empty"]).await.code, Some(1));
}

#[tokio::test]
async fn a_refused_unit_does_not_hold_up_the_others() {
    let refused = json!({ "unit": "a@.service", "error": { "code": 400, "message": "cannot activate template \"a@.service\"" } });
    let fake = Fake::new()
        .on(UNITS, units(&[known("a@.service", "inactive"), known("b.service", "inactive")]))
        .on(REQUESTS, results(&[refused, accepted("b.service", "launched")]))
        .on(WAIT, Answer::Lines(vec![done("b.service", "launched")]));
    let output = fake.run(&["start", "a@", "b"]).await;
    assert_eq!(
        output.err,
        "Error starting units: googleapi: Error 400: cannot activate template \"a@.service\"\n"
    );
    assert_eq!(
        (output.out.as_str(), output.code),
        ("Unit b.service launched on 11111111.../10.0.0.1\n", Some(1))
    );
}

#[tokio::test]
async fn unknown_keys_are_warned_about_in_the_log_layout_of_fleet_1() {
    let created = json!({ "unit": "a.service", "ok": true, "created": true,
        "warnings": ["unrecognized requirement in [X-Fleet] section: \"Globl\"; did you mean Global?", "from the server"] });
    let fake = Fake::new().on(UNITS, units(&[])).on(REQUESTS, results(&[created]));
    fake.file("a.service", "[Service]\nExecStart=/bin/true\n[X-Fleet]\nGlobl=true\n");
    let output = fake.run(&["submit", "a"]).await;
    let lines: Vec<&str> = output.err.lines().collect();
    assert_eq!(lines.len(), 2, "{}", output.err);
    assert!(
        lines[0].contains(" WARN content.rs:")
            && lines[0]
                .contains(": Unit a.service: unrecognized requirement in [X-Fleet] section: \"Globl\"")
    );
    assert!(lines[1].ends_with("Unit a.service: from the server"));
}

#[tokio::test]
async fn restart_says_so_and_refuses_what_is_inactive() {
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "launched"), known("b.service", "inactive")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched")]))
        .on(WAIT, Answer::Lines(vec![done("a.service", "launched")]));
    let output = fake.run(&["restart", "a", "b"]).await;
    assert_eq!(
        (output.out.as_str(), output.code),
        ("Unit a.service launched on 11111111.../10.0.0.1\n", Some(1))
    );
    assert!(output.err.starts_with("Unable to restart unit b.service in state inactive\n"), "{}", output.err);
    assert!(output.err.ends_with(": Unit(a.service) was restarted.\n"), "{}", output.err);
}

#[tokio::test]
async fn a_command_that_succeeds_with_json_prints_one_document() {
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "launched")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched")]))
        .on(WAIT, Answer::Lines(vec![done("a.service", "launched")]));
    fake.file("a.service", TEXT);
    let output = fake.run(&["start", "--replace", "-o", "json", "a"]).await;
    assert_eq!((&output.json()["results"][0]["unit"], output.code), (&json!("a.service"), Some(0)));

    let fake = Fake::new().on(UNITS, units(&[]));
    for verb in ["submit", "load", "start", "restart", "stop", "unload", "destroy"] {
        let output = fake.run(&[verb, "-o", "json"]).await;
        assert_eq!((output.json(), output.code), (json!({ "results": [] }), Some(0)), "{verb}");
        assert_eq!(output.err, "No units given\n");
    }
    for verb in ["stop", "unload", "destroy"] {
        let output = fake.run(&[verb, "-o", "json", "a"]).await;
        assert_eq!((output.json(), output.code), (json!({ "results": [] }), Some(0)), "{verb}");
        assert_eq!(output.err, "Units not found in registry\n");
    }
}

#[tokio::test]
async fn json_tells_the_outcome_of_every_unit() {
    let fake = Fake::new()
        .on(UNITS, units(&[known("a.service", "inactive")]))
        .on(REQUESTS, results(&[accepted("a.service", "launched")]))
        .on(WAIT, Answer::Lines(vec![done("a.service", "launched")]));
    let output = fake.run(&["start", "-o", "json", "a"]).await;
    let told = &output.json()["results"][0];
    assert_eq!(
        (&told["unit"], &told["outcome"], &told["exitCode"]),
        (&json!("a.service"), &json!("done"), &json!(0))
    );
    assert_eq!(told["progress"]["machine"]["ip"], "10.0.0.1");
}

#[tokio::test]
async fn json_tells_also_what_is_refused_because_it_is_inactive() {
    for verb in ["stop", "restart"] {
        let fake = Fake::new()
            .on(UNITS, units(&[known("a.service", "inactive"), known("b.service", "launched")]))
            .on(REQUESTS, results(&[accepted("b.service", "launched")]));
        let output = fake.run(&[verb, "-o", "json", "--no-block", "a", "b"]).await;
        let document = output.json();
        let of = |index: usize| {
            let told = &document["results"][index];
            (told["unit"].clone(), told["outcome"].clone(), told["exitCode"].clone())
        };
        assert_eq!(of(0), (json!("a.service"), json!("refused"), json!(1)), "{verb}");
        assert_eq!(of(1), (json!("b.service"), json!("requested"), json!(0)), "{verb}");
        let text = format!("Unable to {verb} unit a.service in state inactive");
        assert_eq!((&document["results"][0]["message"], output.code), (&json!(text), Some(1)), "{verb}");
        assert!(output.err.starts_with(&text), "{}", output.err);

        let fake = Fake::new().on(UNITS, units(&[known("a.service", "inactive")]));
        let output = fake.run(&[verb, "-o", "json", "a"]).await;
        assert_eq!(output.json()["results"].as_array().map(Vec::len), Some(1), "{verb}");
        assert_eq!(output.code, Some(1), "{verb}");
    }
}

#[tokio::test]
async fn an_answer_that_lacks_units_is_no_success() {
    let fake = Fake::new().on(UNITS, units(&[known("a.service", "inactive")])).on(REQUESTS, results(&[]));
    let output = fake.run(&["start", "a"]).await;
    assert!(output.err.starts_with("Error: the server answered for 0 of 1 units"), "{}", output.err);
    assert_eq!(output.code, Some(1));
}
