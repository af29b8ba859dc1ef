# A JAR that is downloaded. It is the only one in local/, so it need not be named.
#
#   nomad job run -var jar_url=https://example.com/app.jar jar.nomad.hcl
#   nomad alloc logs -job jar
#
# Nomad downloads over http, https, git, hg, s3 and gcs. It has no file:// artifacts: put a JAR of the host behind a volume
# and name it with jar_path.

variable "jar_url" {
  description = "Where the JAR is."
  type        = string
}

variable "args" {
  description = "The program's arguments."
  type        = list(string)
  default     = []
}

variable "jvm_options" {
  description = "Options of the JVM; they win over those that the driver generates."
  type        = list(string)
  default     = []
}

variable "attempts" {
  description = "How often a failed task is started again on the same node."
  type        = number
  default     = 0
}

job "jar" {
  type = "batch"

  # A job that fails is to be seen failing, not to be tried elsewhere.
  reschedule {
    attempts  = 0
    unlimited = false
  }

  group "jar" {
    restart {
      attempts = var.attempts
      delay    = "2s"
      mode     = "fail"
    }

    task "jar" {
      driver = "milo"

      artifact {
        source      = var.jar_url
        destination = "local/"

        # options {
        #   checksum = "sha256:…"
        # }
      }

      config {
        args        = var.args
        jvm_options = var.jvm_options
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
