//! A Nomad that lets nobody in without a certificate of its own authority and a token, in a region and a namespace that are not
//! the usual ones: the service works there with the policy of the examples, and says what is missing where something is.

use std::{fs, path::Path, process::Command, sync::Arc};

use runyard_common::testing::{Output, TempDir, tempdir};
use serde_json::{Value, json};

use crate::{
    cli::DOCKERFILE,
    nomad::ready,
    nomad_agent::Agent,
    nomad_service::Cluster,
    support::{Registry, Repository},
};

/// The region.
const REGION: &str = "lab";

/// What opens an agent: certificates, and the token of its operator.
pub(crate) struct Keys {
    folder: TempDir,
    pub(crate) token: String,
}

impl Keys {
    /// New ones, by Nomad's own tools.
    pub(crate) fn make(program: &Path) -> Self {
        let folder = tempdir();
        for words in [
            &["tls", "ca", "create"][..],
            &["tls", "cert", "create", "-server", "-region", REGION],
            &["tls", "cert", "create", "-cli", "-region", REGION],
        ] {
            let mut command = Command::new(program);
            Output::of(command.args(words).current_dir(folder.path())).success();
        }
        Self {
            folder,
            token: uuid::Uuid::new_v4().to_string(),
        }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The lines of an agent's configuration.
    pub(crate) fn configuration(&self) -> String {
        format!(
            r#"
region = "{REGION}"
acl {{
  enabled = true
}}
tls {{
  http                = true
  rpc                 = true
  verify_https_client = true
  ca_file             = "{}"
  cert_file           = "{}"
  key_file            = "{}"
}}
"#,
            self.file("nomad-agent-ca.pem"),
            self.file("lab-server-nomad.pem"),
            self.file("lab-server-nomad-key.pem"),
        )
    }

    /// Variables for Nomad's own command line.
    pub(crate) fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("NOMAD_CACERT", self.file("nomad-agent-ca.pem")),
            ("NOMAD_CLIENT_CERT", self.file("lab-cli-nomad.pem")),
            ("NOMAD_CLIENT_KEY", self.file("lab-cli-nomad-key.pem")),
            ("NOMAD_REGION", REGION.to_owned()),
            ("NOMAD_TOKEN", self.token.clone()),
        ]
    }

    /// A client with certificate and token.
    pub(crate) fn client(&self) -> reqwest::blocking::Client {
        let read = |name: &str| fs::read(self.file(name)).unwrap();
        let authority = reqwest::Certificate::from_pem(&read("nomad-agent-ca.pem")).unwrap();
        let both = [read("lab-cli-nomad.pem"), read("lab-cli-nomad-key.pem")].concat();
        let token = (
            "x-nomad-token".parse().unwrap(),
            self.token.parse().unwrap(),
        );
        reqwest::blocking::Client::builder()
            .tls_certs_only([authority])
            .identity(reqwest::Identity::from_pem(&both).unwrap())
            .default_headers([token].into_iter().collect())
            .build()
            .unwrap()
    }
}

/// A token that may what the examples' policy says, in this namespace.
fn token(agent: &Agent, namespace: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/nomad/policy.hcl");
    let policy = fs::read_to_string(file).unwrap();
    let policy = policy.replace(
        "namespace \"default\"",
        &format!("namespace \"{namespace}\""),
    );
    agent
        .command(&["acl", "policy", "apply", "buildctl", "-"], &policy)
        .success();
    let words = [
        "acl", "token", "create", "-name", "buildctl", "-policy", "buildctl", "-json",
    ];
    let made: Value = serde_json::from_str(&agent.command(&words, "").success()).unwrap();
    made["SecretID"].as_str().unwrap().to_owned()
}

#[test]
fn with_certificates_a_token_a_region_and_a_namespace_everything_works() {
    let agent = ready().then(Agent::secured).flatten();
    let Some(agent) = agent else { return };
    let mut cluster = Cluster::on(Arc::new(agent), Registry::open);
    let token = token(&cluster.agent, &cluster.namespace);
    let keys = cluster.agent.keys.as_ref().unwrap();
    let place = cluster.folder.path();
    fs::write(place.join("token"), &token).unwrap();
    fs::write(place.join("wrong"), keys.token.replace(['1', '2'], "3")).unwrap();
    let certificate = [
        ("CA_FILE", keys.file("nomad-agent-ca.pem")),
        ("CERT_FILE", keys.file("lab-cli-nomad.pem")),
        ("KEY_FILE", keys.file("lab-cli-nomad-key.pem")),
        ("TLS_SERVER_NAME", "server.lab.nomad".to_owned()),
        ("REGION", REGION.to_owned()),
        ("TOKEN_FILE", place.join("token").display().to_string()),
    ];
    let wrong = place.join("wrong").display().to_string();
    let named = |(name, value): (&str, String)| (format!("BUILDCTL_NOMAD_{name}"), value);
    cluster.more = certificate.map(named).into();

    let doctor = Output::of(&mut cluster.command(&["doctor", "--nomad"]));
    assert_eq!(doctor.code, 0, "{doctor}");
    let service = cluster.serve();
    let source = Repository::with(DOCKERFILE);
    let tested = json!({"test": {"commands": ["true"]}});
    let id = cluster.submit(&service, &source, &tested);
    let status = service.until(&id, "SUCCEEDED");
    assert_eq!(
        cluster.registry.digest("app", "v1").as_deref(),
        status["digest"].as_str()
    );
    assert!(
        service
            .run(&["logs", &id])
            .success()
            .contains("publish: succeeded")
    );
    cluster.is_quiet(&id);

    // Neither somebody without a certificate is let in, nor somebody with a token that is none.
    for (name, value, words) in [
        ("CERT_FILE", String::new(), "certificate"),
        ("TOKEN_FILE", wrong, "token"),
    ] {
        let mut command = cluster.command(&["doctor", "--nomad"]);
        command.env(format!("BUILDCTL_NOMAD_{name}"), value);
        if name == "CERT_FILE" {
            command.env("BUILDCTL_NOMAD_KEY_FILE", "");
        }
        let refused = Output::of(&mut command);
        assert_ne!(refused.code, 0, "{name}: {refused}");
        assert!(refused.to_string().contains(words), "{name}: {refused}");
        assert!(!refused.to_string().contains(&token), "{refused}");
    }
}
