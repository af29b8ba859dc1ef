# A Nomad client with milo-driver, for one machine and for trying things out:
#
#   nomad agent -dev -config=agent.hcl -plugin-dir=/opt/nomad/plugins
#
# The plugin directory is the folder that holds the program `milo-driver`, and nothing else that Nomad should start. It can
# also be written here; the flag wins:
#
#   plugin_dir = "/opt/nomad/plugins"
#
# `cargo xtask dev milo-driver` does all of this with a fresh build.

# What tasks use is measured only with this; `nomad alloc status -stats` shows nothing without it. -dev has it.
telemetry {
  publish_allocation_metrics = true
}

# The label is the file name of the program in the plugin directory. Without this block Nomad does not start it.
# What jobs write is `driver = "milo"`.
plugin "milo-driver" {
  config {
    # Every option with its default. docs/milo-driver/configuration.md explains them.

    # What is used.
    # crun_path    = "/usr/bin/crun"              # default: the first crun in PATH
    # java_homes   = ["/opt/jdk-21"]              # homes of JVMs, before and besides those that are found
    # default_java = "17"                         # a version, a vendor or a home; default: the best one found
    # state_dir    = "/run/milo"                  # two agents on one host need two
    # shell        = "bash"                       # or "fish": what echoes a `greeting`

    # What tasks get unless they say otherwise.
    # heap_percent    = 75                        # the heap's share of a task's memory
    # pids_limit      = 4096                      # processes and threads of a task together; 0: no limit
    # stop_signal     = "SIGTERM"                 # for tasks without a kill_signal
    # log_mode        = "block"                   # or "drop": what happens while nobody reads a task's log
    # host_tools      = true                      # /bin and /usr/bin of the host, read-only
    # default_seccomp = "default"                 # or "unconfined", or the path of a profile

    # What jobs may ask for.
    # allow_caps = ["audit_write", "kill", "net_bind_service"]
    # allow_ulimits {                             # what `ulimit` may ask for above the agent's own limits
    #   memlock = "unlimited"
    # }
    # allow_host_mounts        = false            # folders of the host in `mount` and `volumes`
    # allow_privileged_user    = false            # user = "root"
    # allow_java_home          = false            # a java_home that is not one of java_homes
    # allow_unconfined_seccomp = false            # a filter that is weaker than the default, or another one
    # allow_rootfs             = false            # a root file system of the job's choice

    # What the driver does by itself.
    # fingerprint_period = "30s"                  # how often the host is looked at
    # gc {
    #   enabled = true                            # remove containers that no agent asks for any more,
    #   grace   = "5m"                            # so long after the start of the plugin;
    #   dry_run = false                           # or only say which
    # }
  }
}
