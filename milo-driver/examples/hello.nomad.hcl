# The smoke test: a container that says hello. Its container needs no Java and nothing is downloaded.
#
#   nomad job run hello.nomad.hcl
#   nomad alloc logs -job hello

variable "greeting" {
  description = "What is said. It is never run, whatever is in it."
  type        = string
  default     = "Hello from Milo!"
}

job "hello" {
  type = "batch"

  group "hello" {
    task "hello" {
      driver = "milo"

      config {
        greeting = var.greeting
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
