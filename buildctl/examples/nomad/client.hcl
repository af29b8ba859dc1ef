# What clients need for builds, beside `buildah` and `git` on the node (raw_exec, exec) or in the image (docker, podman).

client {
  # The layer cache as a host volume: nomad.cache is then `buildah-cache`. The folder belongs to the user of builds: 1000 in
  # Buildah's image with the tier `rootless`.
  host_volume "buildah-cache" {
    path      = "/opt/nomad/data/buildah-cache"
    read_only = false
  }
}

# For nomad.driver raw_exec: Buildah of the node, as root. The least isolation.
plugin "raw_exec" {
  config {
    enabled = true
  }
}

# For nomad.driver docker.
plugin "docker" {
  config {
    # If nomad.cache or registry.certificates is a folder of the node. A host volume does not need it.
    volumes {
      enabled = true
    }

    # Of the tiers only the higher ones need one of these:
    #   allow_caps       = [..., "sys_admin"]     # nomad.tier sys_admin
    #   allow_privileged = true                   # nomad.tier privileged
  }
}
