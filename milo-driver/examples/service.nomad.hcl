# A service: found by name, checked, configured by a template, restarted when it fails, stopped with a signal and a delay.
#
#   nomad job run -var jar_url=https://example.com/server.jar service.nomad.hcl
#   nomad service info web
#   nomad alloc exec -job -task web service sh
#   nomad job stop service

variable "jar_url" {
  description = "Where the JAR is. Its arguments are the port to listen on and a properties file."
  type        = string
}

variable "health" {
  description = "The path that answers with 2xx while the service is well."
  type        = string
  default     = "/health"
}

variable "provider" {
  description = "nomad or consul. Nomad's own checks are http and tcp; script checks need Consul."
  type        = string
  default     = "nomad"
}

job "service" {
  group "service" {
    network {
      port "http" {}
    }

    # Three times within half a minute on this node, then elsewhere.
    restart {
      attempts = 3
      interval = "30s"
      delay    = "1s"
      mode     = "fail"
    }

    task "web" {
      driver = "milo"

      artifact {
        source      = var.jar_url
        destination = "local/"
      }

      # /secrets is memory, and of this task only. A JVM ends at SIGHUP unless the program handles it, so a change restarts.
      template {
        destination = "secrets/app.properties"
        change_mode = "restart"

        data = <<-PROPERTIES
          instance = {{ env "NOMAD_ALLOC_ID" }}
          port     = {{ env "NOMAD_PORT_http" }}
        PROPERTIES
      }

      config {
        args = ["$${NOMAD_PORT_http}", "$${NOMAD_SECRETS_DIR}/app.properties"]
      }

      service {
        name     = "web"
        port     = "http"
        provider = var.provider

        check {
          type     = "http"
          path     = var.health
          interval = "2s"
          timeout  = "1s"
        }

        # Runs inside of the container, with the host's programs (the agent's option `host_tools`).
        dynamic "check" {
          for_each = var.provider == "consul" ? ["script"] : []

          content {
            name     = "configured"
            type     = "script"
            command  = "/bin/sh"
            args     = ["-c", "test -s /secrets/app.properties"]
            interval = "10s"
            timeout  = "2s"
          }
        }
      }

      # First nobody finds the service any more, then it is asked to end. SIGTERM is this driver's default, too. After the
      # timeout everything in the container is killed.
      shutdown_delay = "1s"
      kill_signal    = "SIGTERM"
      kill_timeout   = "20s"

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
