//! Requests to registries: over TLS or not, as somebody or nobody, and again when that may help. What they are for is
//! [`super`]'s.

use std::{
    collections::HashMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{
    Certificate, Identity, Method, StatusCode, Url,
    blocking::{Client, ClientBuilder, RequestBuilder, Response},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE},
};
use runyard_common::{
    backoff::{self, Backoff},
    crypto,
    secret::Secret,
};
use serde::Deserialize;

use super::{
    Options,
    auth::{Challenge, Login},
    error::{RegistryError, refusal},
};
use crate::names::Repository;

/// How often a request is sent at most while nobody answers, or answers that it cannot now.
pub(super) const TRIES: u32 = 4;
/// How long to wait in between.
const WAITS: Backoff = Backoff {
    initial: Duration::from_millis(250),
    factor: 3.0,
    max: Duration::from_secs(5),
    jitter: 0.2,
};
/// Where other programs keep certificates of registries.
const CERTIFICATES: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];
/// How much of a refusal's body is read, in bytes.
const REFUSAL: u64 = 64 << 10;

/// A request to a repository.
pub(super) struct Request {
    method: Method,
    at: Repository,
    /// Below `/v2/REPOSITORY/`, or a whole URL that the registry gave.
    path: String,
    headers: Vec<(HeaderName, String)>,
    body: Option<Body>,
    also: Option<String>,
}

/// What is sent along.
pub(super) enum Body {
    /// Bytes, which can be sent again.
    Bytes(Vec<u8>),
    /// What another registry answers, and how long it is; sent once.
    Stream(Response, u64),
}

impl Request {
    pub(super) fn new(method: Method, at: &Repository, path: &str) -> Self {
        Self {
            method,
            at: at.clone(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: None,
            also: None,
        }
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(super) fn accept(self, types: &str) -> Self {
        self.header(ACCEPT, types)
    }

    pub(super) fn body(mut self, body: Body) -> Self {
        self.body = Some(body);
        self
    }

    /// A scope that is needed besides the one that the registry asks for.
    pub(super) fn also(mut self, scope: &str) -> Self {
        self.also = Some(scope.to_owned());
        self
    }

    /// The request in words.
    fn words(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        let what = match path.strip_prefix("manifests/") {
            Some(digest) if digest.contains(':') => format!("@{digest}"),
            Some(tag) => format!(":{tag}"),
            None if path.contains("://") => String::from("/blobs/uploads"),
            None => format!("/{}", path.trim_end_matches('/')),
        };
        match self.method {
            Method::GET | Method::HEAD => format!("{}{what}", self.at),
            ref method => format!("{method} {}{what}", self.at),
        }
    }
}

/// Connections to registries, made when they are needed.
pub(super) struct Connections {
    options: Options,
    hosts: Mutex<HashMap<String, Host>>,
    /// What to send as `Authorization`, by repository and method.
    grants: Mutex<HashMap<(String, Method), HeaderValue>>,
}

#[derive(Clone)]
struct Host {
    client: Client,
    base: Url,
}

#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: Secret,
}

impl Connections {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            hosts: Mutex::default(),
            grants: Mutex::default(),
        }
    }

    /// Sends a request; an answer that says no is an error.
    pub(super) fn send(&self, mut request: Request) -> Result<Response, RegistryError> {
        let mut attempt = 0;
        let mut asked = false;
        loop {
            let host = self.host(&request.at)?;
            let again = !matches!(request.body, Some(Body::Stream(..)));
            let error = match self.attempt(&host, &mut request) {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED && again && !asked => {
                    asked = true;
                    self.authorize(&host, &request, &answer)?;
                    continue;
                }
                Ok(answer) => {
                    let (status, mut body) = (answer.status(), Vec::new());
                    // What cannot be read is not quoted.
                    let _ = answer.take(REFUSAL).read_to_end(&mut body);
                    refusal(status.as_u16(), &body, request.at.host(), request.words())
                }
                Err(error) => unreachable(request.at.host(), &error),
            };
            attempt += 1;
            let passing = matches!(error, RegistryError::Unreachable { .. });
            if !passing || !again || attempt >= TRIES {
                return Err(error);
            }
            if !(self.options.pause)(WAITS.delay(attempt - 1, backoff::random())) {
                return Err(RegistryError::Stopped);
            }
        }
    }

    fn attempt(&self, host: &Host, request: &mut Request) -> Result<Response, reqwest::Error> {
        let url = match Url::parse(&request.path) {
            Ok(url) if url.has_host() => url,
            _ => {
                let (base, at) = (&host.base, &request.at);
                let library = at.host() == "docker.io" && !at.path().contains('/');
                let library = if library { "library/" } else { "" };
                let path = format!("{base}v2/{library}{}/{}", at.path(), request.path);
                path.parse().unwrap_or_else(|_| base.clone())
            }
        };
        // An upload may be sent elsewhere, where our credentials are nobody's business.
        let ours = url.origin() == host.base.origin();
        let mut builder = host.client.request(request.method.clone(), url);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some(grant) = self.grant(request).filter(|_| ours) {
            builder = builder.header(AUTHORIZATION, grant);
        }
        with_body(builder, &mut request.body).send()
    }

    /// What got a request like this through. A stream is sent once, so that nobody can ask for its grant: it has that of the
    /// `POST` that began the upload.
    fn grant(&self, request: &Request) -> Option<HeaderValue> {
        let method = match request.body {
            Some(Body::Stream(..)) => Method::POST,
            _ => request.method.clone(),
        };
        let key = (request.at.to_string(), method);
        lock(&self.grants).get(&key).cloned()
    }

    /// Does what the registry asks for before it answers, and keeps what comes of it.
    fn authorize(
        &self,
        host: &Host,
        request: &Request,
        answer: &Response,
    ) -> Result<(), RegistryError> {
        let challenges = answer.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenges
            .iter()
            .find_map(|value| Challenge::parse(value.to_str().ok()?));
        let login = self.options.auths.login(&request.at);
        let denied = |why: String| RegistryError::Denied {
            what: request.words(),
            why,
        };
        let grant = match (challenge, login) {
            (Some(Challenge::Basic), Some(Login::Password { username, password })) => {
                basic(&username, &password)
            }
            (Some(Challenge::Basic), _) => {
                return Err(denied(format!(
                    "it wants a name and a password, and there are none for {}",
                    request.at.host()
                )));
            }
            (
                Some(Challenge::Bearer {
                    realm,
                    service,
                    scope,
                }),
                login,
            ) => {
                let also = request.also.as_deref();
                let place = TokenPlace {
                    realm: &realm,
                    service: service.as_deref(),
                    scopes: scope.as_deref().into_iter().chain(also).collect(),
                };
                let token = token(host, request, &place, login.as_ref())?;
                format!("Bearer {}", token.expose())
            }
            (None, _) => {
                return Err(denied("it asks for a login of an unknown kind".to_owned()));
            }
        };
        let mut grant = HeaderValue::try_from(grant).map_err(|_| {
            denied("the credentials have characters that no header can carry".to_owned())
        })?;
        grant.set_sensitive(true);
        let key = (request.at.to_string(), request.method.clone());
        lock(&self.grants).insert(key, grant);
        Ok(())
    }

    /// The connection to a host: over TLS, except to one that may do without and does.
    fn host(&self, at: &Repository) -> Result<Host, RegistryError> {
        let name = at.host();
        if let Some(host) = lock(&self.hosts).get(name) {
            return Ok(host.clone());
        }
        let insecure = self.options.insecure.iter().any(|known| known == name);
        let client = self.client(name, insecure)?;
        let address = if name == "docker.io" {
            "registry-1.docker.io"
        } else {
            name
        };
        let base = |scheme: &str| {
            Url::parse(&format!("{scheme}://{address}/"))
                .map_err(|error| RegistryError::Setup(format!("`{name}` is no host: {error}")))
        };
        let secure = base("https")?;
        let plain = insecure
            && client
                .head(secure.clone())
                .send()
                .is_err_and(|error| error.is_connect());
        let host = Host {
            client,
            base: if plain { base("http")? } else { secure },
        };
        lock(&self.hosts).insert(name.to_owned(), host.clone());
        Ok(host)
    }

    fn client(&self, name: &str, insecure: bool) -> Result<Client, RegistryError> {
        crypto::install();
        let builder = Client::builder()
            .user_agent(concat!("buildctl/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .timeout(Duration::from_mins(2));
        let builder = if insecure {
            builder.tls_danger_accept_invalid_certs(true)
        } else {
            self.trust(builder, name)?
        };
        builder.build().map_err(|error| {
            RegistryError::Setup(format!("no connection to {name} can be made: {error}"))
        })
    }

    /// Adds what is in the first folder of certificates for this host: `*.crt` to trust, `*.cert` with its `*.key` to show
    /// (containers-certs.d(5)).
    fn trust(
        &self,
        mut builder: ClientBuilder,
        name: &str,
    ) -> Result<ClientBuilder, RegistryError> {
        let own = self.options.certificates.iter().map(PathBuf::as_path);
        let folders = own.chain(CERTIFICATES.iter().map(Path::new));
        let Some(folder) = folders
            .map(|folder| folder.join(name))
            .find(|folder| folder.is_dir())
        else {
            return Ok(builder);
        };
        let setup = |path: &Path, error: &dyn std::fmt::Display| {
            RegistryError::Setup(format!(
                "the certificates in {} cannot be used: {error}",
                path.display()
            ))
        };
        let entries = fs::read_dir(&folder).map_err(|error| setup(&folder, &error))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let pem = || fs::read(&path).map_err(|error| setup(&path, &error));
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => {
                    let certificates = Certificate::from_pem_bundle(&pem()?);
                    builder = builder
                        .tls_certs_merge(certificates.map_err(|error| setup(&path, &error))?);
                }
                Some("cert") => {
                    let key = fs::read(path.with_extension("key"))
                        .map_err(|error| setup(&path, &error))?;
                    let identity = Identity::from_pem(&[key, b"\n".to_vec(), pem()?].concat());
                    builder = builder.identity(identity.map_err(|error| setup(&path, &error))?);
                }
                _ => {}
            }
        }
        Ok(builder)
    }
}

/// Where tokens come from, as a challenge says it.
struct TokenPlace<'c> {
    realm: &'c str,
    service: Option<&'c str>,
    scopes: Vec<&'c str>,
}

/// Gets a token for somebody, or for nobody.
fn token(
    host: &Host,
    request: &Request,
    place: &TokenPlace<'_>,
    login: Option<&Login>,
) -> Result<Secret, RegistryError> {
    let realm = place.realm;
    let wrong = |why: String| RegistryError::Denied {
        what: request.words(),
        why,
    };
    let url: Url = realm.parse().map_err(|_| {
        wrong(format!(
            "it sends to `{realm}` for a token, which is no URL"
        ))
    })?;
    if url.scheme() != "https" && host.base.scheme() == "https" {
        return Err(wrong(format!(
            "it wants credentials sent to {realm}, without TLS"
        )));
    }
    let answer = token_request(host, url, place, login)
        .send()
        .map_err(|error| unreachable(request.at.host(), &error))?;
    let status = answer.status();
    let body = read(answer, REFUSAL, realm)?;
    if !status.is_success() {
        return Err(
            match refusal(status.as_u16(), &body, request.at.host(), request.words()) {
                RegistryError::NotFound { why, .. } | RegistryError::Refused { why, .. } => {
                    wrong(why)
                }
                other => other,
            },
        );
    }
    let token: Token = serde_json::from_slice(&body)
        .map_err(|_| wrong(format!("{realm} answered without a token")))?;
    Ok(token.token)
}

fn token_request(
    host: &Host,
    mut url: Url,
    place: &TokenPlace<'_>,
    login: Option<&Login>,
) -> RequestBuilder {
    let service = place.service.map(|service| ("service", service));
    let scopes = place.scopes.iter().map(|scope| ("scope", *scope));
    let pairs = service.into_iter().chain(scopes);
    if let Some(Login::Identity(token)) = login {
        let pairs = pairs.chain([
            ("grant_type", "refresh_token"),
            ("client_id", "buildctl"),
            ("refresh_token", token.expose()),
        ]);
        let form = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(pairs)
            .finish();
        let kind = "application/x-www-form-urlencoded";
        return host.client.post(url).header(CONTENT_TYPE, kind).body(form);
    }
    url.query_pairs_mut().extend_pairs(pairs);
    let get = host.client.get(url);
    match login {
        Some(Login::Password { username, password }) => {
            get.basic_auth(username, Some(password.expose()))
        }
        _ => get,
    }
}

fn with_body(builder: RequestBuilder, body: &mut Option<Body>) -> RequestBuilder {
    match body {
        None => builder,
        Some(Body::Bytes(bytes)) => builder.body(bytes.clone()),
        Some(Body::Stream(..)) => match body.take() {
            Some(Body::Stream(source, size)) => {
                let timeout = Duration::from_hours(1);
                builder
                    .timeout(timeout)
                    .body(reqwest::blocking::Body::sized(source, size))
            }
            _ => builder,
        },
    }
}

fn basic(username: &str, password: &Secret) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let pair = format!("{username}:{}", password.expose());
    format!("Basic {}", STANDARD.encode(pair))
}

/// Reads a body, if it is not longer than this.
pub(super) fn read(answer: Response, most: u64, what: &str) -> Result<Vec<u8>, RegistryError> {
    let host = answer.url().host_str().unwrap_or_default().to_owned();
    let mut bytes = Vec::new();
    let read = answer.take(most + 1).read_to_end(&mut bytes);
    match read {
        Err(error) => Err(RegistryError::Unreachable {
            host,
            why: format!("its answer broke off: {error}"),
        }),
        Ok(_) if bytes.len() as u64 > most => Err(RegistryError::Unexpected {
            what: what.to_owned(),
            why: format!("it is longer than {most} bytes"),
        }),
        Ok(_) => Ok(bytes),
    }
}

/// The innermost words are those of the system or of TLS.
fn unreachable(host: &str, error: &reqwest::Error) -> RegistryError {
    let innermost = std::iter::successors(Some(error as &dyn std::error::Error), |error| {
        error.source()
    })
    .last();
    let why = if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        innermost.map_or_else(String::new, ToString::to_string)
    };
    RegistryError::Unreachable {
        host: host.to_owned(),
        why,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // No code under these locks panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        sync::{Arc, Mutex},
        thread,
    };

    use super::{super::Auths, *};
    use crate::registry::{Manifest, Registry};

    type Heard = Arc<Mutex<Vec<String>>>;

    /// A registry that answers `(request line, authorization)` as told, over plain HTTP.
    fn registry(
        answer: impl Fn(&str, &str, &str) -> (u16, String, String) + Send + 'static,
    ) -> (String, Heard) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (heard, us) = (Heard::default(), host.clone());
        let said = heard.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                // The first thing a client tries is TLS, which is no text.
                let head: Vec<String> = reader
                    .by_ref()
                    .lines()
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .collect();
                let Some(request) = head.first().filter(|line| line.contains("HTTP/1.1")) else {
                    continue;
                };
                let grant = head
                    .iter()
                    .find_map(|line| line.strip_prefix("authorization: "))
                    .unwrap_or_default();
                let length = head
                    .iter()
                    .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                // What is not read when the connection is closed takes the answer with it.
                std::io::copy(&mut reader.take(length.unwrap_or(0)), &mut std::io::sink()).unwrap();
                said.lock().unwrap().push(request.clone());
                let (status, headers, body) = answer(request, grant, &us);
                let length = body.len();
                let reply = format!(
                    "HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                stream.write_all(reply.as_bytes()).unwrap();
            }
        });
        (host, heard)
    }

    fn client(host: &str, auths: Auths) -> Registry {
        Registry::new(Options {
            insecure: vec![host.to_owned()],
            certificates: None,
            auths,
            pause: Box::new(|_| true),
        })
    }

    #[test]
    fn a_token_is_fetched_once_with_the_scope_that_was_asked_for() {
        let (host, heard) = registry(|request, grant, us| {
            let plain = String::new;
            match request.split(' ').nth(1).unwrap() {
                path if path.starts_with("/token") => {
                    assert_eq!(grant, "Basic bWU6cHc=");
                    assert!(path.contains("scope=repository%3Aapp%3Apull"), "{path}");
                    (200, plain(), "{\"access_token\":\"tok\"}".to_owned())
                }
                _ if grant == "Bearer tok" => (200, plain(), "{}".to_owned()),
                _ => {
                    let realm = format!("http://{us}/token");
                    let challenge = format!(
                        "www-authenticate: Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:app:pull\"\r\n"
                    );
                    (401, challenge, String::new())
                }
            }
        });
        let mut auths = Auths::default();
        auths.add(&host, "me", &Secret::new("pw"));
        let registry = client(&host, auths);
        let at = format!("{host}/app:v1").parse().unwrap();
        registry.manifest(&at).unwrap();
        registry.manifest(&at).unwrap();
        let heard = heard.lock().unwrap();
        let tokens = heard.iter().filter(|line| line.contains("/token"));
        assert_eq!(tokens.count(), 1, "{heard:?}");
    }

    #[test]
    fn what_is_streamed_to_a_registry_is_sent_with_the_login_of_its_upload() {
        let (host, heard) = registry(|request, grant, _| {
            let challenge = "www-authenticate: Basic realm=\"r\"\r\n".to_owned();
            let location = "location: /v2/to/blobs/uploads/1\r\n".to_owned();
            match request.split(' ').next().unwrap() {
                _ if grant != "Basic bWU6cHc=" => (401, challenge, String::new()),
                "POST" => (202, location, String::new()),
                "HEAD" => (404, String::new(), String::new()),
                "PUT" => (201, String::new(), String::new()),
                _ => (200, String::new(), "blob".to_owned()),
            }
        });
        let mut auths = Auths::default();
        auths.add(&host, "me", &Secret::new("pw"));
        let of = |name: &str| format!("{host}/{name}").parse::<Repository>().unwrap();
        let text = r#"{"config": {"digest": "sha256:c", "size": 4}}"#;
        let manifest = Manifest::of(text.into());
        let copied =
            client(&host, auths).copy_content(&manifest, &of("from"), &of("to"), &mut |_| {});
        let heard = heard.lock().unwrap();
        copied.unwrap_or_else(|error| panic!("{error}: {heard:?}"));
        let sent = heard.iter().filter(|line| line.starts_with("PUT /v2/to/"));
        assert_eq!(sent.count(), 1, "{heard:?}");
    }

    #[test]
    fn a_registry_that_is_busy_is_asked_again_and_one_that_refuses_is_not() {
        let busy = Mutex::new(2);
        let (host, heard) = registry(move |request, _, _| {
            let mut busy = busy.lock().unwrap();
            if request.contains("/refused/") {
                return (403, String::new(), "no".to_owned());
            }
            if *busy > 0 {
                *busy -= 1;
                return (503, String::new(), String::new());
            }
            (200, String::new(), "{}".to_owned())
        });
        let registry = client(&host, Auths::default());
        let manifest =
            |name: &str| registry.manifest(&format!("{host}/{name}:v1").parse().unwrap());
        manifest("app").unwrap();
        let refused = manifest("refused").unwrap_err();
        assert!(matches!(refused, RegistryError::Denied { .. }), "{refused}");
        let count = |name: &str| {
            let heard = heard.lock().unwrap();
            heard.iter().filter(|line| line.contains(name)).count()
        };
        assert_eq!((count("/app/"), count("/refused/")), (3, 1));
    }

    #[test]
    fn a_manifest_that_has_not_its_digest_is_refused() {
        let (host, _) = registry(|_, _, _| (200, String::new(), "{\"other\": 1}".to_owned()));
        let registry = client(&host, Auths::default());
        let digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        let at = format!("{host}/app@sha256:{digest}").parse().unwrap();
        let wrong = registry.manifest(&at).unwrap_err();
        assert!(matches!(wrong, RegistryError::Unexpected { .. }), "{wrong}");
    }

    #[test]
    fn nobody_waits_for_a_registry_in_a_run_that_is_to_stop() {
        let (host, heard) = registry(|_, _, _| (503, String::new(), String::new()));
        let registry = Registry::new(Options {
            insecure: vec![host.clone()],
            certificates: None,
            auths: Auths::default(),
            pause: Box::new(|_| false),
        });
        let stopped = registry.manifest(&format!("{host}/app:v1").parse().unwrap());
        assert!(matches!(stopped, Err(RegistryError::Stopped)));
        assert_eq!(
            heard
                .lock()
                .unwrap()
                .iter()
                .filter(|line| line.contains("manifests"))
                .count(),
            1
        );
    }
}
