from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import UInt32Value
from moltbot.third_party.envoy.v3 import accesslog_pb2 as pb

from moltbot_mesh.envoy.refusals import RefusedRequest, parse_entry, parse_message


def entry(**request) -> pb.HTTPAccessLogEntry:
    return pb.HTTPAccessLogEntry(
        common_properties=pb.AccessLogCommon(
            downstream_remote_address=pb.Address(socket_address=pb.SocketAddress(address="10.0.0.9", port_value=5)),
            start_time=Timestamp(seconds=2, nanos=3),
        ),
        request=pb.HTTPRequestProperties(**request),
        response=pb.HTTPResponseProperties(
            response_code=UInt32Value(value=413), response_code_details="request_payload_too_large"
        ),
    )


def test_a_rest_request_is_told_as_the_client_wrote_it():
    found = parse_entry(
        entry(
            path="/moltbot.gateway.v1.OpenAIService/ChatCompletions",
            request_method=pb.POST,
            request_id="r",
            request_headers={"x-mesh-method": "PUT", "x-mesh-path": "/v1/x", "traceparent": "00-a-b-01"},
        )
    )
    assert found == RefusedRequest(
        method="PUT",
        path="/v1/x",
        request_id="r",
        http_status=413,
        details="request_payload_too_large",
        peer="10.0.0.9",
        start_time_ns=2_000_000_003,
        traceparent="00-a-b-01",
    )


def test_a_request_refused_before_its_headers_were_rewritten_is_told_without_its_query():
    found = parse_entry(entry(path="/v1/x?key=secret", request_method=pb.GET))
    assert (found.method, found.path) == ("GET", "/v1/x")


def test_the_status_that_a_grpc_client_was_given_is_told():
    refused = entry(path="/a.B/C")
    assert parse_entry(refused).grpc_status is None
    refused.response.response_headers["grpc-status"] = "12"
    assert parse_entry(refused).grpc_status == 12


def test_a_request_too_malformed_to_have_a_method_is_told():
    found = parse_entry(pb.HTTPAccessLogEntry())
    assert (found.method, found.path, found.http_status, found.start_time_ns) == ("", "", 0, 0)


def test_long_texts_are_cut():
    assert len(parse_entry(entry(path="/" + "a" * 9000)).path) == 1024


def test_all_entries_of_a_message_are_read():
    entries = pb.StreamAccessLogsMessage.HTTPAccessLogEntries(log_entry=[entry(path="/a"), entry(path="/b")])
    assert [found.path for found in parse_message(pb.StreamAccessLogsMessage(http_logs=entries))] == ["/a", "/b"]


def test_the_service_has_the_name_that_envoy_calls():
    assert pb.DESCRIPTOR.services_by_name["AccessLogService"].full_name == "envoy.service.accesslog.v3.AccessLogService"
