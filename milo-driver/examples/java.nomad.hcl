# A job that was written for Nomad's own `java` driver, with the line `driver` changed and nothing else.
#
#   nomad job run -var jar_url=https://example.com/app.jar java.nomad.hcl
#
# What is different then: docs/milo-driver/configuration.md, "Coming from Nomad's java driver".

variable "jar_url" {
  description = "Where the JAR is; it is called app.jar afterwards."
  type        = string
}

job "java" {
  type = "batch"

  group "java" {
    task "java" {
      driver = "milo" # was: "java"

      artifact {
        source      = var.jar_url
        destination = "local/app.jar"
        mode        = "file"
      }

      config {
        jar_path    = "local/app.jar"
        jvm_options = ["-Xms64m", "-Xmx128m"]
        args        = ["one", "two"]
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
