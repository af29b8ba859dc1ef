# The service as a job of the Nomad that it builds on:
#
#   nomad acl policy apply -namespace default -job buildctl buildctl policy.hcl     # where ACLs are on
#   nomad job run -var nodes=/usr/local/bin/buildctl buildctl.nomad.hcl
#   nomad service info buildctl
#
# found through Nomad's own services, or, in clusters that have it, through Consul:
#
#   nomad job run -var provider=consul -var nodes=/usr/local/bin/buildctl buildctl.nomad.hcl
#   dig +short buildctl.service.consul SRV
#
# Replicas keep nothing: records and claims are Nomad variables, builds are jobs. Any of them may be asked, and any may end.

variable "datacenters" {
  type    = list(string)
  default = ["*"]
}

variable "namespace" {
  description = "Where the service is, its builds are, and its variables."
  default     = "default"
}

variable "replicas" {
  type    = number
  default = 2
}

variable "driver" {
  description = "The service's own: exec where clients have it, raw_exec needs no more than a process."
  default     = "exec"
}

variable "program" {
  description = "Where clients have buildctl. With `exec` the path has to be in the client's chroot_env."
  default     = "/usr/local/bin/buildctl"
}

variable "nodes" {
  description = "Where nodes that build, or the image of builds, have buildctl; empty: they fetch it from a replica, which must live until a build has begun."
  default     = ""
}

variable "builds" {
  description = "The driver of builds: docker, podman, exec or raw_exec. `buildctl doctor --nomad` says what works."
  default     = "docker"
}

variable "cache" {
  description = "Layers between builds: a folder of the nodes (docker needs volumes.enabled), or the name of a host volume as in client.hcl."
  default     = "/opt/nomad/data/buildah-cache"
}

variable "provider" {
  description = "Where the service is found: nomad or consul."
  default     = "nomad"
}

variable "consul" {
  description = "Consul's address, to mirror jobs where Job Forge's `--watch` looks; empty for not to."
  default     = ""
}

variable "tokens" {
  description = "Whether the Nomad variable nomad/jobs/buildctl has an item `tokens`: lines, of which every client must present one."
  type        = bool
  default     = false
}

variable "settings" {
  description = "More of the service's variables, such as BUILDCTL_REGISTRY_URL."
  type        = map(string)
  default     = {}
}

job "buildctl" {
  datacenters = var.datacenters
  namespace   = var.namespace
  type        = "service"

  update {
    max_parallel = 1
    health_check = "checks"
  }

  group "service" {
    count = var.replicas

    network {
      port "http" {}
    }

    service {
      name     = "buildctl"
      provider = var.provider
      port     = "http"
      tags     = var.provider == "consul" ? ["http"] : []

      # Ready: it is up, and Nomad answers it with a leader.
      check {
        name     = "ready"
        type     = "http"
        path     = "/ready"
        interval = "10s"
        timeout  = "8s"
      }
    }

    task "serve" {
      driver = var.driver

      config {
        command = var.program
        args    = ["serve"]
      }

      # Its token for the agent below; policy.hcl says what it may.
      identity {
        env = true
      }

      env {
        BUILDCTL_LISTEN  = "${NOMAD_ADDR_http}"
        BUILDCTL_BACKEND = "nomad"

        # The agent of the node, without a network: the task API.
        BUILDCTL_NOMAD_ADDRESS   = "unix://${NOMAD_SECRETS_DIR}/api.sock"
        BUILDCTL_NOMAD_NAMESPACE = "${NOMAD_NAMESPACE}"

        BUILDCTL_NOMAD_DRIVER      = var.builds
        BUILDCTL_NOMAD_CACHE       = var.cache
        BUILDCTL_NOMAD_RUNNER_PATH = var.nodes

        # Web browsers and clients come by Consul's names for it, where there is one.
        BUILDCTL_ALLOWED_HOSTS  = var.provider == "consul" ? "buildctl.service.consul" : ""
        BUILDCTL_CONSUL_ADDRESS = var.consul

        # Without tokens everybody who reaches it may build.
        BUILDCTL_TOKEN_FILE = var.tokens ? "${NOMAD_SECRETS_DIR}/tokens" : ""

        # Secrets of jobs come from Nomad variables (`nomad:PATH`). With a Vault: true, and a role for builds.
        BUILDCTL_NOMAD_VAULT_ENABLED = "false"
      }

      template {
        destination = "local/settings.env"
        env         = true
        change_mode = "restart"
        data        = <<-EOT
          # Of var.settings.
          %{~for name, value in var.settings~}
          ${name}=${jsonencode(value)}
          %{~endfor~}
        EOT
      }

      dynamic "template" {
        for_each = var.tokens ? ["tokens"] : []
        content {
          destination = "secrets/tokens"
          perms       = "0600"
          # The service reads them again by itself.
          change_mode = "noop"
          data        = "{{ with nomadVar \"nomad/jobs/buildctl\" }}{{ .tokens }}{{ end }}"
        }
      }

      # Nobody is sent there any more, then requests are finished, and then it ends; builds go on anyway.
      shutdown_delay = "3s"
      kill_timeout   = "20s"

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
