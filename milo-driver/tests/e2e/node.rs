//! What an agent says about its node: the driver's attributes, its health with the reason, its configuration's faults.

use runyard_common::testing::Output;

use super::agent::{Agent, Ask};

#[test]
fn a_node_tells_what_its_driver_has_found() {
    let Some(agent) = Agent::healthy() else {
        return;
    };
    let attributes = agent.watch("/v1/nodes", |nodes| {
        let node = format!("/v1/node/{}", nodes[0]["ID"].as_str()?);
        // The first that a driver says comes before it has asked crun anything.
        Some(agent.watch(&node, |node| {
            let attributes = &node["Attributes"];
            let has_asked = attributes["driver.milo.crun.version"].is_string();
            has_asked.then(|| attributes.clone())
        }))
    });
    let jres = agent.driver(&["jres"]);
    let rows = jres["jres"].as_array().unwrap();
    let default = rows.iter().find(|row| row["is_default"] == true);
    let default = default.expect("a default JVM");
    let major = default["major"].to_string();
    for (name, value) in [
        ("driver.milo", "1".into()),
        ("driver.milo.version", env!("CARGO_PKG_VERSION").into()),
        ("driver.milo.java.count", rows.len().to_string().into()),
        (
            "driver.milo.java.default.version",
            default["version"].clone(),
        ),
        ("driver.milo.java.default.major", major.as_str().into()),
        ("driver.milo.java.default.home", default["home"].clone()),
    ] {
        assert_eq!(attributes[name], value, "{name} in {attributes:#}");
    }
    for name in ["crun.version", "crun.path", "cgroup.version", "seccomp"] {
        assert!(
            attributes[format!("driver.milo.{name}")].is_string(),
            "{name} in {attributes:#}"
        );
    }
}

#[test]
fn without_its_java_the_driver_is_unhealthy_and_says_why() {
    let ask = Ask {
        // The block is one that the agent takes.
        plugin: "    default_java = \"99\"\n    allow_ulimits {\n      memlock = \"unlimited\"\n    }",
        ..Ask::default()
    };
    let Some(agent) = Agent::start(&ask) else {
        return;
    };
    let why = agent.watch("/v1/nodes", |nodes| {
        let driver = &nodes[0]["Drivers"]["milo"];
        (driver["Healthy"] == false).then(|| driver["HealthDescription"].to_string())
    });
    assert!(why.contains("99"), "{why}");
    let status = agent.nomad(&["node", "status", "-json"]).success();
    assert!(status.contains("99"), "{status}");
    // Nothing is placed on it, and Nomad says so.
    agent.run("hello", &[]);
    agent.watch("/v1/job/hello/evaluations", |evaluations| {
        let evaluations = evaluations.as_array()?;
        evaluations
            .iter()
            .any(|evaluation| evaluation["Status"] == "blocked")
            .then_some(())
    });
}

#[test]
fn a_wrong_configuration_ends_the_agent_with_the_option_and_its_fault() {
    for (plugin, said) in [
        ("    heap_percent = 400", "heap_percent"),
        ("    java_home = \"/opt\"", "java_home"),
        ("    shell = \"zsh\"", "zsh"),
        ("    allow_ulimits {\n      wings = \"2\"\n    }", "wings"),
    ] {
        let Some(agent) = Agent::configured(&Ask {
            plugin,
            ..Ask::default()
        }) else {
            return;
        };
        let output = Output::of(&mut agent.command());
        assert_ne!(output.code, 0, "{output}");
        assert!(output.to_string().contains(said), "{said} in {output}");
        let line = output.to_string();
        eprintln!(
            "{}",
            line.lines()
                .filter(|line| line.contains(said))
                .collect::<Vec<_>>()
                .join("\n")
        );
    }
}
