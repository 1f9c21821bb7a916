%% One feature of Erlang's ssh against a workspace: erlang_client.escript FEATURE.
main([Feature]) ->
    {ok, _} = application:ensure_all_started(ssh),
    Port = list_to_integer(os:getenv("PORT")),
    {ok, C} = ssh:connect("127.0.0.1", Port, [{user, "me"}, {silently_accept_hosts, true},
        {user_interaction, false}, {user_dir, os:getenv("W")}, {save_accepted_host, false}]),
    ok = feature(Feature, C),
    ssh:close(C).

feature("connect", C) -> {<<"ok\n">>, 0} = run(C, "echo ok"), ok;
feature("exit", C) -> {_, 3} = run(C, "exit 3"), ok;
feature("upload", C) ->
    {ok, Data} = file:read_file(os:getenv("DATA")),
    {ok, F} = ssh_sftp:start_channel(C),
    ssh_sftp:write_file(F, os:getenv("W") ++ "/up", Data);
feature("download", C) ->
    {ok, F} = ssh_sftp:start_channel(C),
    {ok, Data} = ssh_sftp:read_file(F, os:getenv("DATA")),
    file:write_file(os:getenv("W") ++ "/down", Data).

run(C, Command) ->
    {ok, Ch} = ssh_connection:session_channel(C, infinity),
    success = ssh_connection:exec(C, Ch, Command, infinity),
    collect(C, Ch, <<>>, none).

collect(C, Ch, Out, Status) ->
    receive
        {ssh_cm, C, {data, Ch, _, More}} -> collect(C, Ch, <<Out/binary, More/binary>>, Status);
        {ssh_cm, C, {exit_status, Ch, S}} -> collect(C, Ch, Out, S);
        {ssh_cm, C, {closed, Ch}} -> {Out, Status};
        {ssh_cm, C, _} -> collect(C, Ch, Out, Status)
    after 60000 -> {timeout, Out, Status}
    end.
