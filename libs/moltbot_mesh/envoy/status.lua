-- Runs last on the way out, so it sees the transcoded answer.

local function is_grpc(headers)
  local kind = headers:get("content-type")
  return kind ~= nil and kind:sub(1, 16) == "application/grpc"
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if headers:get(":method") == "CONNECT" then
    -- The transcoder would wait for the end of a body that never ends.
    handle:respond(
      { [":status"] = "405", ["content-type"] = "application/json" },
      '{"error":{"message":"CONNECT is not taken","type":"invalid_request_error","param":null,"code":"method_not_allowed"}}'
    )
    return
  end
  local id = headers:get("x-request-id")
  if id ~= nil and (#id > 128 or id:find("^[%w._:-]+$") == nil) then
    headers:remove("x-request-id")
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get("x-mesh-status")
  if status ~= nil then
    headers:remove("x-mesh-status")
    if status:find("^[2-5]%d%d$") ~= nil then
      headers:replace(":status", status)
    end
  end
  if not is_grpc(headers) then
    headers:remove("grpc-status")
    headers:remove("grpc-message")
    headers:remove("grpc-status-details-bin")
    headers:remove("grpc-encoding")
    headers:remove("grpc-accept-encoding")
  end
end
