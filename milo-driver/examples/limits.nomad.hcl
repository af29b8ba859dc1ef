# What a task may use: memory, heap, CPU time, processes, open files, memory-backed folders.
#
#   nomad job run -var jar_url=https://example.com/app.jar limits.nomad.hcl

variable "jar_url" {
  description = "Where the JAR is."
  type        = string
}

variable "args" {
  description = "The program's arguments."
  type        = list(string)
  default     = []
}

variable "memory" {
  description = "What is reserved, in MiB. The heap is sized from it."
  type        = number
  default     = 64
}

variable "memory_max" {
  description = "The hard limit in MiB; 0: the same as `memory`. Nomad ignores it unless the operator allows oversubscription."
  type        = number
  default     = 0
}

variable "heap_percent" {
  description = "The heap's share of `memory`. The rest is for threads, classes, compiled code and buffers."
  type        = number
  default     = 75
}

variable "pids" {
  description = "Processes and threads together."
  type        = number
  default     = 256
}

job "limits" {
  type = "batch"

  reschedule {
    attempts  = 0
    unlimited = false
  }

  group "limits" {
    restart {
      attempts = 0
      mode     = "fail"
    }

    task "limits" {
      driver = "milo"

      artifact {
        source      = var.jar_url
        destination = "local/"
      }

      config {
        args = var.args

        # -Xmx of this share; `heap_mb` gives a size instead. A -Xmx in jvm_options wins over both.
        heap_percent = var.heap_percent

        # The JVM ends at its first OutOfMemoryError, which is the default, and leaves a heap dump in /alloc/logs.
        exit_on_oom = true
        heap_dump   = true

        # The share of the CPUs is also the most that the task gets, and the JVM counts that many.
        cpu_hard_limit = true

        pids_limit = var.pids
        shm_size   = "16m"
        tmpfs      = ["/cache:size=32m,mode=1777"]

        # Soft and hard.
        ulimit {
          nofile = "1024:4096"
          core   = "0"
        }
      }

      resources {
        cpu        = 200
        memory     = var.memory
        memory_max = var.memory_max
      }
    }
  }
}
