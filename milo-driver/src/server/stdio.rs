//! go-plugin's way to what a plugin prints: an open stream in which nothing comes, since nothing is printed.

use tokio_stream::{Pending, pending};
use tonic::{Request, Response, Status};

use crate::proto::plugin::{StdioData, grpc_stdio_server::GrpcStdio};

/// What this plugin prints.
#[derive(Clone, Copy, Debug)]
pub struct Stdio;

#[tonic::async_trait]
impl GrpcStdio for Stdio {
    type StreamStdioStream = Pending<Result<StdioData, Status>>;

    async fn stream_stdio(
        &self,
        _: Request<()>,
    ) -> Result<Response<Self::StreamStdioStream>, Status> {
        Ok(Response::new(pending()))
    }
}
