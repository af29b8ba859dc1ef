//! go-plugin's broker of further connections: an open stream that nobody needs, kept for as long as the agent keeps it.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::proto::plugin::{ConnInfo, grpc_broker_server::GrpcBroker};

/// The broker.
#[derive(Clone, Copy, Debug)]
pub struct Broker;

#[tonic::async_trait]
impl GrpcBroker for Broker {
    type StartStreamStream = ReceiverStream<Result<ConnInfo, Status>>;

    async fn start_stream(
        &self,
        request: Request<Streaming<ConnInfo>>,
    ) -> Result<Response<Self::StartStreamStream>, Status> {
        let (sender, stream) = mpsc::channel(1);
        let mut offers = request.into_inner();
        tokio::spawn(async move {
            // The stream lasts as long as both ends want it.
            tokio::select! {
                () = async { while let Ok(Some(_)) = offers.message().await {} } => {}
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
