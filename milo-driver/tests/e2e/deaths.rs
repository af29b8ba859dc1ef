//! Agents and drivers that restart or are killed: tasks go on as the same processes, and how they ended is known.

use std::fs;

use runyard_common::testing::{eventually, patience};
use serde_json::Value;

use super::{
    agent::{Agent, Ask, Task},
    http::Files,
    jars, jobs, remains,
};

/// An agent with a job that runs until it is told to end with a code, and the container's first process.
fn place() -> Option<(Agent, Task, i64)> {
    let (agent, url) = jobs::place()?;
    agent.run("jar", &[&url, r#"args=["until","/alloc/data/end","9"]"#]);
    let task = agent.running("jar", "jar");
    agent.said(&task.allocation, "jar", "Starting application...");
    let pid = only(&agent);
    Some((agent, task, pid))
}

fn only(agent: &Agent) -> i64 {
    let pids = agent.containers();
    assert_eq!(pids.len(), 1, "{pids:?}");
    pids[0]
}

/// Tells the job to end.
fn end(agent: &Agent, task: &Task) {
    let data = agent
        .path()
        .join("data/alloc")
        .join(&task.allocation)
        .join("alloc/data/end");
    fs::write(data, "").unwrap();
}

/// The task has ended as it was told, in its first and only run.
#[track_caller]
fn ended_as_told(agent: &Agent) {
    let task = agent.dead("jar", "jar");
    task.has_event("Terminated", "Exit Code: 9");
    assert_eq!(task.state["Restarts"], 0, "{task:#?}");
    let log = agent.nomad(&["alloc", "logs", &task.allocation]).success();
    assert_eq!(log, "Starting application...\n");
}

#[test]
fn tasks_go_on_while_the_agent_is_restarted() {
    let Some((mut agent, task, pid)) = place() else {
        return;
    };
    let plugin = agent.plugin();
    agent.stop();
    // A stopped agent takes its plugin with it.
    eventually(patience(), || agent.plugin().is_none().then_some(()));
    assert_eq!(only(&agent), pid);
    agent.resume();
    agent.enter(&task.allocation);
    assert_ne!(agent.plugin(), plugin);
    assert_eq!(only(&agent), pid);
    end(&agent, &task);
    ended_as_told(&agent);
}

#[test]
fn tasks_go_on_when_the_driver_is_killed() {
    let Some((agent, task, pid)) = place() else {
        return;
    };
    agent.kill_plugin();
    eventually(patience(), || agent.plugin());
    agent.wait_until_healthy();
    agent.enter(&task.allocation);
    assert_eq!(only(&agent), pid);
    end(&agent, &task);
    ended_as_told(&agent);
}

#[test]
fn a_new_agent_finds_the_driver_of_a_killed_one() {
    let Some((mut agent, task, pid)) = place() else {
        return;
    };
    let plugin = agent.plugin();
    agent.kill();
    agent.resume();
    agent.enter(&task.allocation);
    assert_eq!(agent.plugin(), plugin);
    assert_eq!(only(&agent), pid);
    end(&agent, &task);
    ended_as_told(&agent);
}

#[test]
fn how_a_task_ended_is_known_though_neither_agent_nor_driver_lived() {
    let Some((mut agent, task, _)) = place() else {
        return;
    };
    agent.kill();
    agent.kill_plugin();
    end(&agent, &task);
    eventually(patience(), || agent.containers().is_empty().then_some(()));
    agent.resume();
    ended_as_told(&agent);
}

/// Its shim is all that could know the exit code. The task itself goes on, and can be stopped.
#[test]
fn a_task_whose_shim_is_killed_goes_on_and_is_never_doubled() {
    let Some((agent, task, pid)) = place() else {
        return;
    };
    let shims = remains::shims(agent.path());
    assert_eq!(shims.len(), 1, "{shims:?}");
    remains::kill(shims[0]);
    eventually(patience(), || {
        let now = remains::shims(agent.path());
        (now.len() == 1 && now != shims).then_some(())
    });
    agent.enter(&task.allocation);
    assert_eq!(only(&agent), pid);
    agent.nomad(&["job", "stop", "-detach", "jar"]).success();
    let task = agent.dead("jar", "jar");
    assert_eq!(task.state["Restarts"], 0, "{task:#?}");
    assert!(agent.containers().is_empty());
}

#[test]
fn a_task_that_hears_no_signal_is_killed_after_its_time() {
    let Some((agent, url)) = jobs::place() else {
        return;
    };
    agent.run("jar", &[&url, r#"args=["deaf"]"#]);
    let task = agent.running("jar", "jar");
    agent.said(&task.allocation, "jar", "Starting application...");
    agent.nomad(&["job", "stop", "-detach", "jar"]).success();
    let task = agent.dead("jar", "jar");
    // Nomad's usual timeout is five seconds.
    task.has_event("Terminated", "Exit Code: 137");
    agent.said(&task.allocation, "jar", "no\n");
}

#[test]
fn containers_that_no_agent_asks_for_are_removed_after_the_grace() {
    let Some(app) = jars::app() else { return };
    let plugin = "    gc {\n      grace = \"2s\"\n    }";
    let Some(mut agent) = Agent::start(&Ask {
        plugin,
        ..Ask::default()
    }) else {
        return;
    };
    agent.wait_until_healthy();
    let url = Files::serve([("app.jar", app)]).url("app.jar");
    agent.run("jar", &[&format!("jar_url={url}"), r#"args=["stay"]"#]);
    let task = agent.running("jar", "jar");
    agent.said(&task.allocation, "jar", "Starting application...");
    only(&agent);
    agent.kill();
    agent.kill_plugin();
    // The agent loses its memory, and with it the name that its tasks were for.
    fs::remove_dir_all(agent.path().join("data/client")).unwrap();
    agent.resume();
    eventually(patience(), || {
        let all = agent.driver(&["ps", "--all"]);
        all.as_array().is_some_and(Vec::is_empty).then_some(())
    });
    assert_eq!(agent.driver(&["ps"]), Value::Array(Vec::new()));
}
