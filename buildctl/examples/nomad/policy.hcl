# What buildctl may where Nomad has ACLs. For the service as a Nomad job:
#
#   nomad acl policy apply -namespace default -job buildctl buildctl policy.hcl
#
# For one that runs elsewhere, with the token in nomad.token_file:
#
#   nomad acl policy apply buildctl policy.hcl
#   nomad acl token create -name buildctl -policy buildctl

namespace "default" {
  capabilities = ["submit-job", "read-job", "list-jobs", "read-logs", "read-fs"]

  variables {
    path "buildctl/*" {
      capabilities = ["read", "write", "list", "destroy"]
    }
  }
}

# `buildctl doctor --nomad` looks at nodes and the agent's version; the service itself does not.
node {
  policy = "read"
}

agent {
  policy = "read"
}
