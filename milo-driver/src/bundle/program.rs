//! The container's first process: its arguments, environment, user and privileges.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Process, User};

use super::{
    BundleError, elf, etc, security,
    view::{self, READ_ONLY, View},
};
use crate::{
    host::Host,
    jre::Jre,
    jvm,
    task::{Java, Program, Task},
    user::Account,
};

/// Where the init is that a task may ask for: this program itself.
const INIT: &str = "/run/milo-init";
/// Where programs are looked for unless the task says so.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Folders in which a shell is looked for.
const SHELLS: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/opt/bin"];
const UMASK: u32 = 0o022;

/// The first process, with what it needs mounted.
pub(super) fn process(
    view: &mut View<'_>,
    task: &Task,
    account: &Account,
    jre: Option<&Jre>,
    host: &Host,
) -> Result<Process, BundleError> {
    let mut args = match &task.program {
        Program::Java(java) => java_args(task, java, jre, host)?,
        Program::Greeting { shell, text } => greeting(view, shell, text)?,
    };
    if task.init {
        let init = init(view, &host.executable)?;
        args.splice(0..0, init);
    }
    let mut process = Process::default();
    process.set_terminal(Some(false));
    process.set_user(user(account));
    process.set_args(Some(args));
    process.set_env(Some(env(task, jre)));
    process.set_cwd(task.work_dir.clone().unwrap_or_else(|| "/".into()));
    process.set_capabilities(Some(security::capabilities(&task.security)?));
    process.set_rlimits(Some(security::ulimits(&task.limits)?));
    process.set_no_new_privileges(Some(task.security.no_new_privileges));
    // Always said: a Nomad agent under systemd has -1000, and its children would inherit it (nomad #10663).
    process.set_oom_score_adj(Some(task.limits.oom_score_adj));
    Ok(process)
}

fn user(account: &Account) -> User {
    let mut user = User::default();
    user.set_uid(account.uid);
    user.set_gid(account.gid);
    user.set_umask(Some(UMASK));
    let groups = &account.groups;
    user.set_additional_gids((!groups.is_empty()).then(|| groups.clone()));
    user
}

fn java_args(
    task: &Task,
    java: &Java,
    jre: Option<&Jre>,
    host: &Host,
) -> Result<Vec<String>, BundleError> {
    let jre = jre.ok_or_else(|| BundleError::NoJvm {
        task: task.name.clone(),
    })?;
    Ok(jvm::command_of(task, java, jre, host.cpus))
}

/// The shell and a script that is always the same: the text is an argument of it, so nothing in it is ever run.
fn greeting(view: &mut View<'_>, shell: &str, text: &str) -> Result<Vec<String>, BundleError> {
    let path = find(view, shell)?;
    let before: &[&str] = match shell {
        "bash" => &["-c", "printf '%s\\n' \"$1\"", "bash"],
        _ => &["-c", "printf '%s\\n' $argv[1]"],
    };
    let mut args = vec![path.to_string_lossy().into_owned()];
    args.extend(before.iter().map(|arg| (*arg).to_owned()));
    args.push(text.to_owned());
    if view.rootfs().is_none() {
        view.show(&path);
        let functions = Path::new("/usr/share/fish");
        if shell == "fish" && functions.exists() {
            view.show(functions);
        }
    }
    Ok(args)
}

/// Where the shell is: on the host, or in the task's own root file system.
fn find(view: &View<'_>, shell: &str) -> Result<PathBuf, BundleError> {
    if !["bash", "fish"].contains(&shell) {
        return Err(BundleError::UnknownShell(shell.to_owned()));
    }
    let exists = |path: &PathBuf| match view.rootfs() {
        Some(_) => view.rootfs_has(path),
        None => path.is_file(),
    };
    SHELLS
        .iter()
        .map(|folder| Path::new(folder).join(shell))
        .find(exists)
        .map(|path| match view.rootfs() {
            Some(_) => path,
            // By its own name, for links may lead where nothing is mounted.
            None => view::real(&path),
        })
        .ok_or_else(|| BundleError::NoShell {
            shell: shell.to_owned(),
            places: SHELLS.join(", "),
        })
}

/// Our own executable as PID 1, before what it is to run.
fn init(view: &mut View<'_>, executable: &Path) -> Result<[String; 3], BundleError> {
    elf::runs_in(view, executable)?;
    let options = READ_ONLY.map(str::to_owned).to_vec();
    view.bind(executable, Path::new(INIT), options);
    Ok([INIT, "init", "--"].map(str::to_owned))
}

/// What the task says, and what every container has where the task says nothing.
fn env(task: &Task, jre: Option<&Jre>) -> Vec<String> {
    let mut env: BTreeMap<&str, String> = task
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    let mut path = PATH.to_owned();
    if let Some(jre) = jre {
        let home = jre.home.to_string_lossy();
        path = format!("{home}/bin:{PATH}");
        env.entry("JAVA_HOME").or_insert_with(|| home.into_owned());
    }
    env.entry("PATH").or_insert(path);
    env.entry("HOME")
        .or_insert_with(|| etc::home(task).to_owned());
    env.entry("TMPDIR").or_insert_with(|| "/tmp".to_owned());
    if !env.contains_key("LC_ALL") {
        // Without a locale a JVM cannot even name files that are not ASCII.
        env.entry("LANG").or_insert_with(|| "C.UTF-8".to_owned());
    }
    env.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::task;

    fn view() -> View<'static> {
        View::new(None, Path::new("/bundle")).unwrap()
    }

    #[test]
    fn a_greeting_is_an_argument_whatever_is_in_it() {
        let text = "$(reboot) \"; `reboot` '-n";
        let args = greeting(&mut view(), "bash", text).unwrap();
        assert_eq!(args.last().unwrap(), text);
        assert_eq!(args.iter().filter(|arg| arg.contains("reboot")).count(), 1);
    }

    #[test]
    fn a_shell_is_mounted_if_the_hosts_programs_are_not() {
        let mut view = view();
        let args = greeting(&mut view, "bash", "hello").unwrap();
        let (mounts, _) = view.finish();
        assert_eq!(mounts[0].destination(), Path::new(&args[0]));
        assert!(greeting(&mut self::view(), "zsh", "").is_err());
    }

    #[test]
    fn what_the_task_says_of_its_environment_holds() {
        let mut task = task();
        task.env = BTreeMap::from([
            ("PATH".to_owned(), "/mine".to_owned()),
            ("LC_ALL".to_owned(), "C".to_owned()),
        ]);
        let env = env(&task, None);
        assert_eq!(env, ["HOME=/tmp", "LC_ALL=C", "PATH=/mine", "TMPDIR=/tmp"]);
        task.env.clear();
        task.dirs.local = Some("/host".into());
        let env = super::env(&task, None);
        assert_eq!(env[0], "HOME=/local");
        assert_eq!(env[1], "LANG=C.UTF-8");
    }
}
