//! What of a Nomad cluster builds need, whether it is there, and how to mend it. Everything is tried: permissions by calls that
//! leave nothing behind, and, if asked, privileges by a job that does what Buildah does.

use std::time::Duration;

use futures_util::future::join_all;
use runyard_common::doctor::Finding;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::{
    client::{ApiError, NomadApi},
    logs,
    observe::{self, Exit, Verdict},
    render,
    settings::NomadSettings,
    wire::absent,
};
use crate::{
    config::{Driver, NomadCache, Tier},
    job::JobId,
    phase::Run,
};

/// With less, there are no variables.
const LEAST: [u64; 3] = [1, 4, 0];
/// With less, Nomad itself ends nothing that runs too long.
const FULL: [u64; 3] = [2, 0, 3];
/// How long a probe may take.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long a probe for which no node has a place is left waiting for one.
const PLACEMENT: Duration = Duration::from_secs(10);

/// A node, as a list of nodes has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Node {
    name: String,
    datacenter: String,
    status: String,
    scheduling_eligibility: String,
    drivers: Option<Map<String, Value>>,
    host_volumes: Option<Map<String, Value>>,
}

/// Everything that was looked at.
pub(super) async fn findings(api: &NomadApi, settings: &NomadSettings) -> Vec<Finding> {
    let agent = agent(api).await;
    let reached = !matches!(agent.verdict, runyard_common::doctor::Verdict::Fail);
    let mut findings = vec![agent];
    if !reached {
        return findings;
    }
    findings.extend(permissions(api, settings).await);
    match nodes(api, settings).await {
        Ok(nodes) => {
            findings.extend(on_nodes(&nodes, settings));
            findings.push(vault(api, settings).await);
        }
        Err(error) => findings.push(Finding::warn(
            "nodes",
            format!("drivers and volumes are not looked at: {error}"),
            "give the token `node { policy = \"read\" }`",
        )),
    }
    findings
}

async fn agent(api: &NomadApi) -> Finding {
    const CHECK: &str = "nomad";
    let leader = api.get(&["status", "leader"]).once().send().await;
    if let Err(error) = leader {
        return Finding::fail(
            CHECK,
            error.to_string(),
            "set nomad.address (NOMAD_ADDR), and its certificates if it has TLS",
        );
    }
    let Ok(answer) = api.get(&["agent", "self"]).once().send().await else {
        return Finding::warn(
            CHECK,
            format!("{} answers and does not tell its version", api.place()),
            "give the token `agent { policy = \"read\" }`",
        );
    };
    let value: Value = answer.json().unwrap_or_default();
    let text = value["config"]["Version"]["Version"]
        .as_str()
        .or_else(|| value["member"]["Tags"]["build"].as_str())
        .unwrap_or("unknown");
    let says = format!("{}, version {text}", api.place());
    match version(text) {
        Some(version) if version < LEAST => Finding::fail(
            CHECK,
            says,
            "Nomad 1.4 or newer is needed, for its variables",
        ),
        Some(version) if version < FULL => Finding::warn(
            CHECK,
            format!("{says}: tests that are tasks of their own are ended by this service only"),
            "Nomad 2.0.3 and newer end them themselves (max_run_duration)",
        ),
        _ => Finding::ok(CHECK, says),
    }
}

/// `2.0.6-dev` → [2, 0, 6]
fn version(text: &str) -> Option<[u64; 3]> {
    let plain = text.split(['-', '+']).next()?;
    let mut parts = plain.split('.').map(|part| part.parse().ok());
    Some([
        parts.next()??,
        parts.next()??,
        parts.next().flatten().unwrap_or(0),
    ])
}

/// What the token may do, by trial.
async fn permissions(api: &NomadApi, settings: &NomadSettings) -> Vec<Finding> {
    let id = JobId::random();
    let name = Run::Cleanup.of_job(&id);
    let submit = async {
        let created = api
            .register(&render::tombstone(id, Run::Cleanup, settings))
            .await;
        let removed = api.deregister(&name, true).await;
        created.and(removed)
    };
    let nothing = "00000000-0000-4000-8000-000000000000";
    let variable = id.to_string();
    let variables = async {
        let path = ["var", "buildctl", "probe", variable.as_str()];
        let body = json!({"Path": path[1..].join("/"), "Items": {"probe": "1"}});
        let written = api
            .put(&path, &body)
            .query("cas", "0")
            .send()
            .await
            .map(drop);
        let removed = api.delete(&path).send().await.map(drop);
        written.and(removed)
    };
    let list = api.get(&["jobs"]).query("per_page", "1").send();
    let read = api.get(&["job", name.as_str()]).send();
    let files = api.get(&["client", "fs", "ls", nothing]).query("path", "/");
    vec![
        permission("submit-job", submit.await),
        permission("list-jobs", list.await.map(drop)),
        permission("read-job", absent(read.await).map(drop)),
        permission("read-fs", absent(files.send().await).map(drop)),
        permission("variables", variables.await),
    ]
}

fn permission(check: &'static str, tried: Result<(), ApiError>) -> Finding {
    match tried {
        Ok(()) => Finding::ok(check, "the token may"),
        Err(error) if check == "variables" => Finding::fail(
            check,
            error.to_string(),
            "allow read, write, list and destroy on the variables `buildctl/*` of the namespace",
        ),
        Err(error) => Finding::fail(
            check,
            error.to_string(),
            format!("give the token the capability `{check}` in the namespace"),
        ),
    }
}

/// Nodes that may get builds.
async fn nodes(api: &NomadApi, settings: &NomadSettings) -> Result<Vec<Node>, ApiError> {
    let answer = api.get(&["nodes"]).send().await?;
    let mut nodes: Vec<Node> = answer.json()?;
    nodes.retain(|node| node.status == "ready" && node.scheduling_eligibility == "eligible");
    nodes.retain(|node| {
        let matches = |pattern: &String| fits(pattern, &node.datacenter);
        settings.nomad.datacenters.iter().any(matches)
    });
    Ok(nodes)
}

/// Whether a datacenter matches a pattern in which `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len())
                .filter(|at| tail.is_char_boundary(*at))
                .any(|at| fits(rest, &tail[at..]))
        }),
    }
}

fn on_nodes(nodes: &[Node], settings: &NomadSettings) -> Vec<Finding> {
    if nodes.is_empty() {
        return vec![Finding::fail(
            "nodes",
            format!(
                "no node is ready in {}",
                settings.nomad.datacenters.join(", ")
            ),
            "set nomad.datacenters to those of your clients, or start one",
        )];
    }
    let name = render::driver_name(settings.nomad.driver);
    let able: Vec<&Node> = nodes.iter().filter(|node| has_driver(node, name)).collect();
    let says = format!("`{name}` works on {} of {} nodes", able.len(), nodes.len());
    let mut findings = vec![if able.is_empty() {
        let mend = format!(
            "enable the driver in the clients' configuration, or set nomad.driver to what they have ({})",
            drivers(nodes).join(", ")
        );
        Finding::fail("driver", says, mend)
    } else {
        Finding::ok("driver", says)
    }];
    findings.extend(options(&able, settings));
    findings.extend(cache(&able, settings));
    findings
}

fn has_driver(node: &Node, name: &str) -> bool {
    let driver = node.drivers.as_ref().and_then(|drivers| drivers.get(name));
    driver.is_some_and(|driver| driver["Healthy"] == true)
}

fn drivers(nodes: &[Node]) -> Vec<String> {
    let known = [
        Driver::Docker,
        Driver::Podman,
        Driver::RawExec,
        Driver::Exec,
    ];
    known
        .into_iter()
        .map(render::driver_name)
        .filter(|name| nodes.iter().any(|node| has_driver(node, name)))
        .map(str::to_owned)
        .collect()
}

/// Options of the Docker driver that the settings need.
fn options(nodes: &[&Node], settings: &NomadSettings) -> Option<Finding> {
    if settings.nomad.driver != Driver::Docker || nodes.is_empty() {
        return None;
    }
    let lacks = |attribute: &str| {
        let has = |node: &&&Node| {
            let driver = node
                .drivers
                .as_ref()
                .and_then(|drivers| drivers.get("docker"));
            let value = driver.map(|driver| &driver["Attributes"][attribute]);
            value.and_then(Value::as_str) == Some("true")
        };
        nodes.len() - nodes.iter().filter(has).count()
    };
    let privileged = lacks("driver.docker.privileged.enabled");
    let volumes = lacks("driver.docker.volumes.enabled");
    let folders = matches!(settings.nomad.cache, NomadCache::Folder(_))
        || settings.registries.certificates.is_some();
    Some(
        if settings.nomad.tier == Tier::Privileged && privileged > 0 {
            Finding::fail(
                "docker options",
                format!("{privileged} nodes refuse privileged containers"),
                "set allow_privileged in the clients' docker plugin, or nomad.tier to rootless",
            )
        } else if folders && volumes > 0 {
            Finding::fail(
                "docker options",
                format!("{volumes} nodes refuse folders as volumes"),
                "set volumes { enabled = true } in the clients' docker plugin, or make nomad.cache the name of a host volume",
            )
        } else {
            Finding::ok("docker options", "what the settings need is allowed")
        },
    )
}

fn cache(nodes: &[&Node], settings: &NomadSettings) -> Option<Finding> {
    const CHECK: &str = "cache";
    match &settings.nomad.cache {
        NomadCache::None => Some(Finding::warn(
            CHECK,
            "every build begins anew",
            "set nomad.cache to a folder of the nodes or the name of a host volume",
        )),
        NomadCache::Folder(folder) if settings.nomad.driver == Driver::Exec => Some(Finding::warn(
            CHECK,
            format!("tasks of `exec` do not see {}", folder.display()),
            "make nomad.cache the name of a host volume",
        )),
        NomadCache::Folder(_) => None,
        NomadCache::HostVolume(name) if settings.nomad.driver == Driver::RawExec => {
            Some(Finding::warn(
                CHECK,
                format!("tasks of `raw_exec` cannot mount the host volume `{name}`"),
                "make nomad.cache a folder of the nodes",
            ))
        }
        NomadCache::HostVolume(name) => {
            let has = |node: &&&Node| {
                let volumes = node.host_volumes.as_ref();
                volumes.is_some_and(|volumes| volumes.contains_key(name))
            };
            let count = nodes.iter().filter(has).count();
            Some(match count {
                0 => Finding::fail(
                    CHECK,
                    format!("no node has the host volume `{name}`"),
                    "add it to the clients' configuration (client, host_volume)",
                ),
                _ => Finding::ok(
                    CHECK,
                    format!(
                        "host volume `{name}` is on {count} of {} nodes",
                        nodes.len()
                    ),
                ),
            })
        }
    }
}

/// Whether some node reaches a Vault, if secrets are to come from one.
async fn vault(api: &NomadApi, settings: &NomadSettings) -> Finding {
    const CHECK: &str = "vault";
    if settings.nomad.vault.is_none() {
        return Finding::ok(CHECK, "not used");
    }
    let call = api.get(&["nodes"]);
    let filter = r#"Attributes["vault.accessible"] == "true""#;
    let answer = call.query("filter", filter).send().await;
    let nodes = answer.and_then(|answer| answer.json::<Vec<Value>>());
    match nodes {
        Ok(nodes) if !nodes.is_empty() => {
            Finding::ok(CHECK, format!("{} nodes reach it", nodes.len()))
        }
        _ => Finding::warn(
            CHECK,
            "no node reaches a Vault: jobs with credentials there are refused",
            "connect the agents to Vault, keep credentials in Nomad variables (nomad:PATH), or set nomad.vault.enabled to false",
        ),
    }
}

/// What Buildah does, in a folder of the task's own. Nothing of it comes from a user.
const PROBE: &str = r#"set -eu
cd "$NOMAD_ALLOC_DIR/data" 2>/dev/null || cd /tmp
umask 022
mkdir -p probe && cd probe
echo ok > file
printf 'FROM scratch\nCOPY file /file\n' > Dockerfile
buildah --version
git --version
set -- --root "$PWD/root" --runroot "$PWD/run" --storage-driver vfs
buildah "$@" bud --isolation chroot --layers=false -t buildctl-probe .
if [ "$(id -u)" = 0 ]; then
    unshare -m sh -c 'mount -t tmpfs probe /mnt'
else
    buildah "$@" unshare sh -c 'mount -t tmpfs probe /mnt'
fi
"#;

/// Tries each tier by a job of its own. Processes of the node have no tiers, and are tried once.
pub(super) async fn probe(
    api: &NomadApi,
    settings: &NomadSettings,
    tiers: &[Tier],
) -> Vec<Finding> {
    if matches!(settings.nomad.driver, Driver::RawExec | Driver::Exec) {
        let mend = if settings.nomad.driver == Driver::Exec {
            "set nomad.driver to raw_exec, docker or podman: Nomad runs tasks of `exec` with the group 0 and few rights, and so newuidmap refuses them (README, \"On Nomad\")"
        } else {
            "install buildah and git on the nodes, and let the driver run them (README, \"On Nomad\")"
        };
        let found = try_once(api, settings).await;
        return vec![match found {
            Ok(place) => Finding::ok("buildah", format!("it works in a task (on {place})")),
            Err(why) => Finding::fail("buildah", why, mend),
        }];
    }
    let tried = join_all(tiers.iter().map(|tier| async {
        let mut settings = settings.clone();
        settings.nomad.tier = *tier;
        (*tier, try_once(api, &settings).await)
    }));
    let wanted = settings.nomad.tier;
    let judged = tried.await.into_iter().map(|(tier, found)| match found {
        Ok(place) => {
            let says = format!("Buildah works in a task of this tier (on {place})");
            Finding::ok(tier_name(tier), says)
        }
        Err(why) if tier == wanted => {
            let why = format!("{why} (nomad.tier is `{}`)", tier_name(tier));
            Finding::fail(tier_name(tier), why, mend(tier))
        }
        Err(why) => Finding::warn(tier_name(tier), why, mend(tier)),
    });
    judged.collect()
}

fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Rootless => "rootless",
        Tier::SysAdmin => "sys_admin",
        Tier::Privileged => "privileged",
    }
}

/// A job that does what Buildah does: where it worked, or why it did not.
async fn try_once(api: &NomadApi, settings: &NomadSettings) -> Result<String, String> {
    let name = format!("buildctl-probe-{}", JobId::random());
    let job = render::probe(&name, PROBE, settings);
    let found = match api.register(&job).await {
        Ok(_) => outcome(api, &name).await,
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = api.deregister(&name, true).await {
        tracing::warn!(%error, name, "the job of a probe is left");
    }
    found
}

fn mend(tier: Tier) -> &'static str {
    match tier {
        Tier::Rootless => {
            "allow user namespaces on the nodes (kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces), or take a higher tier"
        }
        Tier::SysAdmin => {
            "add sys_admin to allow_caps of the clients' driver, or take another tier"
        }
        Tier::Privileged => "set allow_privileged in the clients' driver, or take another tier",
    }
}

/// Where a probe worked, or what it said before it failed.
async fn outcome(api: &NomadApi, name: &str) -> Result<String, String> {
    let deadline = Instant::now() + PATIENCE;
    let unplaced = Instant::now() + PLACEMENT;
    let words = |error: ApiError| error.to_string();
    loop {
        let known = api.job(name).await.map_err(words)?.unwrap_or_default();
        let allocations = api.allocations(name).await.map_err(words)?;
        let evaluations = api.evaluations(name).await.map_err(words)?;
        let sight = observe::sight(&known, &evaluations, &allocations);
        match sight.verdict {
            Verdict::Exited(Exit {
                code: 0, signal: 0, ..
            }) => {
                return Ok(sight.place.unwrap_or_default());
            }
            Verdict::Exited(exit) => {
                let allocation = sight.allocation.unwrap_or_default();
                let said = logs::last_words(api, &allocation).await.unwrap_or_default();
                return Err(format!("exit code {}: {said}", exit.code));
            }
            Verdict::Failed(failure) => return Err(failure.message),
            Verdict::Cancelled => return Err("it was stopped".to_owned()),
            Verdict::Evicted(why) => return Err(why),
            Verdict::Waiting {
                reason: Some(reason),
                ..
            } if allocations.is_empty() && Instant::now() >= unplaced => return Err(reason),
            Verdict::Waiting { reason, .. } if Instant::now() >= deadline => {
                return Err(reason.unwrap_or_else(|| "it found no place".to_owned()));
            }
            Verdict::Running if Instant::now() >= deadline => {
                return Err("it does not end".to_owned());
            }
            Verdict::Waiting { .. } | Verdict::Running => sleep(super::PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::nomad::settings::tests::settings;

    fn node(driver: &str, attributes: &Value) -> Node {
        serde_json::from_value(json!({
            "Name": "n", "Datacenter": "dc1", "Status": "ready", "SchedulingEligibility": "eligible",
            "Drivers": {driver: {"Healthy": true, "Attributes": attributes}},
            "HostVolumes": {"buildah": {"Name": "buildah"}},
        }))
        .unwrap()
    }

    fn verdicts(findings: &[Finding]) -> Vec<(&str, runyard_common::doctor::Verdict)> {
        findings.iter().map(|it| (it.check, it.verdict)).collect()
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("2.0.6-dev"), Some([2, 0, 6]));
        assert_eq!(version("1.10"), Some([1, 10, 0]));
        assert_eq!(version("unknown"), None);
        assert!(version("1.10.3").unwrap() > version("1.9.0").unwrap());
    }

    #[test]
    fn datacenters_are_patterns() {
        assert!(fits("*", "dc1") && fits("dc*", "dc1") && fits("d*1", "dc1") && fits("dc1", "dc1"));
        assert!(!fits("dc", "dc1") && !fits("*2", "dc1"));
    }

    #[test]
    fn a_driver_that_no_node_has_fails_and_says_what_there_is() {
        use runyard_common::doctor::Verdict::{Fail, Ok};
        let mut settings = settings();
        let nodes = [node("raw_exec", &json!({}))];
        assert_eq!(verdicts(&on_nodes(&nodes, &settings)), [("driver", Ok)]);
        settings.nomad.driver = Driver::Docker;
        let findings = on_nodes(&nodes, &settings);
        assert_eq!(verdicts(&findings), [("driver", Fail)]);
        assert!(findings[0].mend.as_ref().unwrap().contains("raw_exec"));
        assert_eq!(verdicts(&on_nodes(&[], &settings)), [("nodes", Fail)]);
    }

    #[test]
    fn what_the_settings_need_of_docker_is_looked_at() {
        use runyard_common::doctor::Verdict::{Fail, Ok};
        let mut settings = settings();
        settings.nomad.driver = Driver::Docker;
        let plain = [node("docker", &json!({}))];
        let found = on_nodes(&plain, &settings);
        assert_eq!(verdicts(&found), [("driver", Ok), ("docker options", Fail)]);
        settings.nomad.cache = NomadCache::HostVolume("buildah".to_owned());
        let found = on_nodes(&plain, &settings);
        assert_eq!(
            verdicts(&found),
            [("driver", Ok), ("docker options", Ok), ("cache", Ok)]
        );
        settings.nomad.cache = NomadCache::HostVolume("other".to_owned());
        assert_eq!(verdicts(&on_nodes(&plain, &settings))[2], ("cache", Fail));
        settings.nomad.tier = Tier::Privileged;
        assert_eq!(
            verdicts(&on_nodes(&plain, &settings))[1],
            ("docker options", Fail)
        );
        let able = [node(
            "docker",
            &json!({"driver.docker.privileged.enabled": "true"}),
        )];
        assert_eq!(
            verdicts(&on_nodes(&able, &settings))[1],
            ("docker options", Ok)
        );
    }
}
