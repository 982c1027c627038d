namespace Menagerie.Bridge
{
    internal static class Names
    {
        /// <summary>GreetAll as greet_all, HTTPGet as http_get, Utf8Text as utf8_text.</summary>
        internal static string SnakeCase(string name)
        {
            string snake = "";
            for (int i = 0; i < name.Length; i++)
            {
                char c = name[i];
                if (char.IsUpper(c) && i > 0 && name[i - 1] != '_')
                {
                    bool startsWord = !char.IsUpper(name[i - 1]);
                    bool endsAcronym = i + 1 < name.Length && char.IsLower(name[i + 1]);
                    if (startsWord || endsAcronym)
                        snake += "_";
                }
                snake += char.ToLowerInvariant(c);
            }
            return snake;
        }
    }
}
