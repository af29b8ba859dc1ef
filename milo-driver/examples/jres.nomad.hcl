# Several JVMs on one node. Each task asks for one; those that ask for nothing get the default.
#
#   milo-driver jres                    # what this host has
#   nomad job run -var version=21 -var vendor=temurin jres.nomad.hcl
#   nomad alloc logs -stderr -job -task version jres
#
# The tasks say which JVM they got and end: with -version a JVM looks for no class, so nothing is downloaded.

variable "version" {
  description = "A version of Java or its beginning: 17, 21.0.4, 1.8."
  type        = string
  default     = "17"
}

variable "vendor" {
  description = "Part of the vendor's name, in any case: debian, temurin."
  type        = string
  default     = "debian"
}

job "jres" {
  type = "batch"

  # Only nodes that have it. The driver names each version it finds: driver.milo.java.17 is a home.
  constraint {
    attribute = "$${attr.driver.milo.java.${var.version}}"
    operator  = "is_set"
  }

  reschedule {
    attempts  = 0
    unlimited = false
  }

  group "jres" {
    restart {
      attempts = 0
      mode     = "fail"
    }

    task "default" {
      driver = "milo"

      config {
        class       = "None"
        jvm_options = ["-version"]
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }

    task "version" {
      driver = "milo"

      config {
        class        = "None"
        jvm_options  = ["-version"]
        java_version = var.version
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }

    task "vendor" {
      driver = "milo"

      config {
        class       = "None"
        jvm_options = ["-version"]
        java_vendor = var.vendor

        # Both must match if both are given. An exact home is `java_home`, which the operator must allow.
        # java_version = "21"
        # java_home    = "/opt/jdk-21"
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }
  }
}
