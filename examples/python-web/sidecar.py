"""The sidecar's gRPC service, from nothing but the messages that protoc makes of the contract."""

import os

import grpc
from google.protobuf import descriptor_pb2

from ringside.v1 import ringside_pb2 as pb


def connect():
    """RINGSIDE_GRPC is host:port or unix:/path. A channel is for the whole process and all its threads."""
    return Cache(grpc.insecure_channel(os.environ.get("RINGSIDE_GRPC", "127.0.0.1:11312")))


class Cache:
    """Has a method for each one of ringside.v1.Cache: cache.Get(pb.GetRequest(key=b"k"), timeout=1).

    grpcio-tools would generate the same. A method is but its name and its two messages.
    """

    def __init__(self, channel):
        self.channel = channel
        service = pb.DESCRIPTOR.services_by_name["Cache"]
        proto = descriptor_pb2.ServiceDescriptorProto()
        service.CopyToProto(proto)
        for method in proto.method:
            kind = "stream_stream" if method.client_streaming else "unary_unary"
            request, response = (getattr(pb, t.rpartition(".")[2]) for t in (method.input_type, method.output_type))
            call = getattr(channel, kind)(
                f"/{service.full_name}/{method.name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            setattr(self, method.name, call)

    def close(self):
        """Leases that this channel holds are released."""
        self.channel.close()
