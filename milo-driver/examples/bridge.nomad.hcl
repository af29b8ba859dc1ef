# A group with a network of its own. All tasks of the group share it: what one of them listens on, the others reach at
# 127.0.0.1. From outside only the mapped ports can be reached.
#
#   nomad job run -var jar_url=https://example.com/server.jar bridge.nomad.hcl
#
# The node needs the reference CNI plugins, as for every driver (`nomad node status -verbose` shows plugins.cni.*).

variable "jar_url" {
  description = "Where the JAR is. It is told the port to listen on as its argument."
  type        = string
}

variable "dns_servers" {
  description = "Name servers of the group; none: the host's, also where that is systemd-resolved."
  type        = list(string)
  default     = []
}

variable "extra_hosts" {
  description = "More lines of /etc/hosts."
  type        = list(string)
  default     = ["backend.example:192.0.2.10"]
}

job "bridge" {
  group "bridge" {
    network {
      mode = "bridge"

      port "http" {
        to = 8080
      }

      # No `hostname`: Nomad offers it for drivers that make networks themselves. The container is called as its network
      # says, and its own name resolves.
      dynamic "dns" {
        for_each = length(var.dns_servers) > 0 ? ["dns"] : []

        content {
          servers = var.dns_servers
        }
      }
    }

    task "server" {
      driver = "milo"

      artifact {
        source      = var.jar_url
        destination = "local/"
      }

      config {
        args        = ["8080"]
        extra_hosts = var.extra_hosts

        # The network is the group's, so its kernel parameters can be set. This one lets an unprivileged user listen on low ports.
        sysctl = {
          "net.ipv4.ip_unprivileged_port_start" = "0"
        }
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
